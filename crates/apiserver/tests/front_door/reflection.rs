//! The schema that clients read from the server.

use futures::stream;
use tonic_reflection::pb::{v1, v1alpha};

use crate::support::World;

/// A comment of `objects.proto`.
const COMMENT: &[u8] = b"Returns one object, or one of its subresources.";
const SYMBOL: &str = "ferrokube.v1.Objects";

fn has_comment(files: &[Vec<u8>]) -> bool {
    files.iter().any(|file| file.windows(COMMENT.len()).any(|part| part == COMMENT))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_schema_comes_with_its_comments_in_both_versions_of_reflection() {
    let world = World::new().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(world.transport());
    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::FileContainingSymbol(SYMBOL.to_owned())),
    };
    let mut answers = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else { panic!("{answer:?}") };
    assert!(has_comment(&files.file_descriptor_proto));

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(world.transport());
    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(SYMBOL.to_owned())),
    };
    let mut answers = client.server_reflection_info(stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response.unwrap();
    let v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    assert!(has_comment(&files.file_descriptor_proto));
}
