//! A client that knows nothing of this project but what the server tells about itself: item 10 of what the first cluster must show.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state their claims by unwrapping, in their helpers too"
)]

use std::{collections::BTreeSet, fs, sync::Arc};

use bytes::{Buf, BufMut, Bytes};
use futures::StreamExt;
use hyper_util::rt::TokioIo;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, Value, prost_types::FileDescriptorProto};

use tests::{Cluster, kube::Namespace};
use tokio::net::TcpStream;
use tonic::{
    Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient, server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
};

const POD: &str = "k8s.io.api.core.v1.Pod";

/// Messages as bytes: what they mean is the schema's business.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// A plain gRPC channel with the administrator's certificate.
async fn connect(cluster: &Cluster) -> Channel {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
    let (cert, key, ca) = cluster.admin_files();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&fs::read(ca).unwrap()).unwrap()).unwrap();
    let chain = vec![CertificateDer::from_pem_slice(&fs::read(cert).unwrap()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(&fs::read(key).unwrap()).unwrap();
    let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let url = cluster.api_urls().remove(0);
    let address = url.trim_start_matches("https://").to_owned();
    let connect = tower::service_fn(move |_: http::Uri| {
        let (connector, address) = (connector.clone(), address.clone());
        async move {
            let stream = TcpStream::connect(&address).await?;
            Ok::<_, std::io::Error>(TokioIo::new(connector.connect(ServerName::try_from("kubernetes").unwrap(), stream).await?))
        }
    });
    // The connector speaks TLS itself; the URL only names the authority.
    Endpoint::from_shared(url.replace("https", "http")).unwrap().connect_with_connector(connect).await.unwrap()
}

/// Everything the server's schema says, file by file, each with what it imports.
async fn read_schema(channel: Channel) -> DescriptorPool {
    let mut client = ServerReflectionClient::new(channel).max_decoding_message_size(64 << 20);
    let mut pool = DescriptorPool::new();
    let mut files = Vec::new();
    let mut known = BTreeSet::new();
    let mut wanted = vec![
        MessageRequest::FileContainingSymbol("ferrokube.v1.Objects".into()),
        MessageRequest::FileContainingSymbol(POD.into()),
    ];
    while let Some(request) = wanted.pop() {
        let request = ServerReflectionRequest { host: String::new(), message_request: Some(request) };
        let mut answers = client.server_reflection_info(futures::stream::iter([request])).await.unwrap().into_inner();
        let Some(MessageResponse::FileDescriptorResponse(answer)) = answers.next().await.unwrap().unwrap().message_response
        else {
            panic!("no file");
        };
        for bytes in answer.file_descriptor_proto {
            let file = FileDescriptorProto::decode(bytes.as_slice()).unwrap();
            if known.insert(file.name().to_owned()) {
                wanted.extend(file.dependency.iter().cloned().map(MessageRequest::FileByFilename));
                files.push(bytes);
            }
        }
        wanted.retain(|request| !matches!(request, MessageRequest::FileByFilename(name) if known.contains(name)));
    }
    let files = files.iter().map(|bytes| FileDescriptorProto::decode(bytes.as_slice()).unwrap());
    pool.add_file_descriptor_protos(files).unwrap();
    pool
}

struct Objects {
    channel: Channel,
    pool: DescriptorPool,
}

impl Objects {
    fn message(&self, name: &str, json: &serde_json::Value) -> DynamicMessage {
        let descriptor = self.pool.get_message_by_name(name).unwrap_or_else(|| panic!("the schema has no {name}"));
        DynamicMessage::deserialize(descriptor, json.clone()).unwrap()
    }

    /// Calls a method by its name in the schema.
    async fn call(&self, method: &str, request: DynamicMessage) -> tonic::Streaming<Bytes> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = format!("/ferrokube.v1.Objects/{method}").parse().unwrap();
        let request = tonic::Request::new(Bytes::from(request.encode_to_vec()));
        grpc.server_streaming(request, path, Raw).await.unwrap().into_inner()
    }

    fn decode(&self, name: &str, bytes: Bytes) -> DynamicMessage {
        DynamicMessage::decode(self.pool.get_message_by_name(name).unwrap(), bytes).unwrap()
    }
}

fn text(message: &DynamicMessage, path: &str) -> String {
    let mut value = Value::Message(message.clone());
    for field in path.split('.') {
        let Value::Message(message) = value else { panic!("{path}: not a message") };
        value = message.get_field_by_name(field).unwrap_or_else(|| panic!("{path}: no {field}")).into_owned();
    }
    value.as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_reflected_schema_creates_watches_and_deletes_a_pod() {
    let cluster = Cluster::for_tests().unwrap();
    let namespace = Namespace::new(&cluster, "reflected").unwrap();
    let channel = connect(&cluster).await;
    let pool = read_schema(channel.clone()).await;
    let objects = Objects { channel, pool };
    let resource = serde_json::json!({ "version": "v1", "resource": "pods" });

    let watch = serde_json::json!({ "resource": resource, "namespace": namespace.name, "sendInitialEvents": true });
    let mut changes = objects.call("Watch", objects.message("ferrokube.v1.WatchRequest", &watch)).await;

    let pod = serde_json::json!({
        "@type": format!("type.googleapis.com/{POD}"),
        "metadata": { "name": "one" },
        "spec": { "containers": [{ "name": "c", "image": "nothing:1" }], "terminationGracePeriodSeconds": "0" },
    });
    let create = serde_json::json!({ "resource": resource, "namespace": namespace.name, "object": pod });
    let mut created = objects.call("Create", objects.message("ferrokube.v1.CreateRequest", &create)).await;
    let created = objects.decode("ferrokube.v1.Object", created.next().await.unwrap().unwrap());
    assert!(text(&created, "object.type_url").ends_with(POD));

    let delete = serde_json::json!({ "resource": resource, "namespace": namespace.name, "name": "one" });
    let mut deleted = objects.call("Delete", objects.message("ferrokube.v1.DeleteRequest", &delete)).await;
    deleted.next().await.unwrap().unwrap();

    let mut seen = Vec::new();
    let follow = async {
        while !seen.contains(&3) {
            let batch = objects.decode("ferrokube.v1.WatchResponse", changes.next().await.unwrap().unwrap());
            let events = batch.get_field_by_name("events").unwrap().into_owned();
            for event in events.as_list().unwrap() {
                let event = event.as_message().unwrap();
                let kind = event.get_field_by_name("type").unwrap().as_enum_number().unwrap();
                if kind != 4 {
                    let object = event.get_field_by_name("object").unwrap().into_owned();
                    let object = object.as_message().unwrap();
                    let value = object.get_field_by_name("value").unwrap().as_bytes().unwrap().clone();
                    assert_eq!(text(&objects.decode(POD, value), "metadata.name"), "one");
                    seen.push(kind);
                }
            }
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), follow).await.expect("no DELETED event");
    assert_eq!((seen.first(), seen.last()), (Some(&1), Some(&3)), "{seen:?}");
}
