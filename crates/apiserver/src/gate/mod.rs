//! What every request passes before anything is done for it.
//!
//! ```text
//! who asks ─► may it ask at all ─► room for a call ─► its body, in time, as room allows ─► the front end
//! ```
//!
//! Long watches, logs and the like take no turn, so one connection can have more of them open than there are turns: a kubelet has a watch
//! for each ConfigMap and Secret that its pods name, 2,048 of them over one connection. They wait for nothing but events, and what they
//! hold is counted by user. Of turns, one user has a sixth however many streams and connections it has.
//!
//! The pods of a node come from its address, as do the node's own daemons: the kubelet masquerades towards whatever is no pod, since an
//! API server need not have a route back to pods. So nobody who has shown who it is is counted by its address, neither its calls nor its
//! connections (see [`daemon::tls::Seat`]).
//!
//! *Invariant:* for a caller that has not been authenticated nothing is reserved, read or decoded but the small requests of the public
//! methods. A body of more than [`SMALL`] is read only once its head has shown what the request does and its user may do that. Turns
//! are for work: nobody has one while a body arrives or an answer is read. What a call holds is given back when it ends, however it
//! ends; what is counted, and how much each may have of it, stands in [`limits`] and [`turns`].

mod body;
mod caller;
mod impersonate;
mod limits;
mod rest;
mod turns;

use std::{
    convert::Infallible,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task,
    time::{Duration, Instant},
};

use api::{StatusError, status::Reason};
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use daemon::tls::{PeerInfo, Seat};
use http::request::Parts;
use http_body::Frame;
use tokio_util::task::AbortOnDropHandle;
use tower::ServiceExt as _;

pub(crate) use self::turns::{Queue, Turn};
use self::{
    body::{Incoming, PACE, PREFIX, no_room},
    caller::Caller,
    limits::{Amount, Charge, Class, Ledgers},
    turns::Turns,
};
use crate::{
    auth::{AUTHENTICATED, Attributes, Credentials, Target},
    call::{Nature, Server},
    grpc::{self, answers},
    metrics::{InFlight, RequestMetrics},
    request::{Asked, User},
};

/// Largest message taken: more than any object may have, so that one that is too large gets an answer that says so.
pub(crate) const MAX_MESSAGE: usize = 8 << 20;
/// Largest message that is taken from everyone, and by every method.
const SMALL: usize = 64 << 10;
/// How long a client without credentials may take to take an answer.
const ANONYMOUS_TAKES: Duration = Duration::from_secs(10);
/// How long after something large has ended its memory is given back.
const SETTLE: Duration = Duration::from_secs(2);

/// The gate. One for the whole server.
pub(crate) struct Gate {
    server: Arc<Server>,
    ledgers: Ledgers,
    turns: Arc<Turns>,
    metrics: RequestMetrics,
    admin: Router,
}

/// What an answer holds until it has been sent.
struct Holding {
    _charge: Charge,
    _in_flight: InFlight,
    /// Closes the connection of a client that does not take its answer.
    _deadline: Option<AbortOnDropHandle<()>>,
}

pin_project_lite::pin_project! {
    /// An answer, with what it holds.
    struct Held {
        #[pin]
        body: Body,
        _holding: Holding,
    }
}

impl Gate {
    /// A gate before a server's services.
    pub(crate) fn new(server: Arc<Server>, turns: usize, streams_per_user: usize, kit: &daemon::Kit) -> Self {
        Self {
            server,
            ledgers: Ledgers::new(streams_per_user),
            turns: Arc::new(Turns::new(turns)),
            metrics: RequestMetrics::register(&kit.metrics),
            admin: daemon::admin_router(kit.health.clone(), kit.metrics.clone()),
        }
    }

    /// Gives memory back to the system after streams and large bodies have ended. Runs until the shutdown begins.
    pub(crate) async fn give_memory_back(self: Arc<Self>, shutdown: daemon::Shutdown) {
        let giving = async {
            loop {
                self.ledgers.freed().await;
                // What ends with it is done with it too; and not more often than this.
                tokio::time::sleep(SETTLE).await;
                daemon::memory::give_back();
                tokio::time::sleep(4 * SETTLE).await;
            }
        };
        tokio::select! {
            () = shutdown.started() => {}
            () = giving => {}
        }
    }

    async fn pass(&self, request: Request, next: Next) -> Result<Response, StatusError> {
        let (mut parts, mut body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let nature = grpc::nature(&path);
        let (user, caller) = self.who(&parts, nature).await?;
        claim(&parts, &caller)?;
        let asked = Arc::new(Asked::new(user).in_queue(Queue::new(&self.turns, &caller)));
        let amount =
            if nature.lasts { Amount { streams: 1, ..Amount::default() } } else { Amount { calls: 1, ..Amount::default() } };
        let mut charge = self.ledgers.charge(caller.accounts(), amount).map_err(|full| no_room(&full))?;
        if !nature.both_ways {
            body = self.read(body, &path, nature, &asked, &mut charge).await?;
        }
        let deadline = (caller.class == Class::Anonymous && !nature.lasts).then(|| seat(&parts)).flatten();
        parts.extensions.insert(asked.clone());
        let request = Request::from_parts(parts, body);

        let in_flight = self.metrics.begin(nature);
        let begun = Instant::now();
        let response = answers::presentable(next.run(request).await);
        let took = (!nature.lasts).then(|| begun.elapsed());
        let code = answers::code(&response);
        self.metrics.answered(asked.action(), code, took);
        if code == 500 {
            let message = response.extensions().get::<tonic::Status>().map(tonic::Status::message).unwrap_or_default();
            tracing::error!(path, user = asked.user.name, message, "a request failed for a reason of ours");
        }
        let deadline = deadline.map(|seat| AbortOnDropHandle::new(tokio::spawn(close_after(seat, ANONYMOUS_TAKES))));
        let holding = Holding { _charge: charge.without_bytes(), _in_flight: in_flight.of(asked.action()), _deadline: deadline };
        Ok(response.map(|body| Body::new(Held { body, _holding: holding })))
    }

    /// Answers version, health and metrics to those who may read their paths.
    async fn plain(&self, request: Request) -> Result<Response, StatusError> {
        let (parts, _) = request.into_parts();
        let path = parts.uri.path().to_owned();
        if !rest::is_served(&path) || parts.method != http::Method::GET {
            return Ok(rest::not_served(&parts.headers));
        }
        let user = self.server.identity.authenticate(&credentials(&parts)).await?;
        let caller = Caller::new(&user, address(&parts));
        claim(&parts, &caller)?;
        let amount = Amount { calls: 1, ..Amount::default() };
        let _charge = self.ledgers.charge(caller.accounts(), amount).map_err(|full| no_room(&full))?;
        let user = impersonate::impersonated(&self.server.identity, &user, &parts.headers).await?.unwrap_or(user);
        let attributes = Attributes { user: &user, verb: "get", target: Target::Path(&path) };
        if !self.server.identity.decide(&attributes).await?.allowed {
            return Err(rest::forbidden(&user.name, &path));
        }
        if path.starts_with("/version") {
            return Ok(rest::version());
        }
        let Ok(response) = self.admin.clone().oneshot(Request::from_parts(parts, Body::empty())).await;
        Ok(response)
    }

    /// The user that a request is made as, and whom it counts for.
    async fn who(&self, request: &Parts, nature: Nature) -> Result<(Arc<User>, Caller), StatusError> {
        let identity = &self.server.identity;
        let user = identity.authenticate(&credentials(request)).await?;
        let caller = Caller::new(&user, address(request));
        if !user.in_group(AUTHENTICATED) && !nature.public {
            let message = "Unauthorized: a client certificate or bearer token is wanted here";
            return Err(StatusError::new(Reason::Unauthorized, message));
        }
        let impersonated = impersonate::impersonated(identity, &user, &request.headers).await?;
        Ok((Arc::new(impersonated.unwrap_or(user)), caller))
    }

    /// The whole of a body. What is large is read only for those who may do with it what its head says.
    async fn read(
        &self,
        body: Body,
        path: &str,
        nature: Nature,
        asked: &Asked,
        charge: &mut Charge,
    ) -> Result<Body, StatusError> {
        let mut body = Incoming::new(body, PACE);
        let ended = body.read_to(SMALL + PREFIX + 1, charge).await?;
        let most = if nature.carries_object { MAX_MESSAGE } else { SMALL };
        body.at_most(most)?;
        if !ended {
            let head = body.message();
            self.server.authorize_head(asked, &grpc::head(path, &head)?).await?;
            body.read_to(most + PREFIX + 1, charge).await?;
            body.at_most(most)?;
        }
        Ok(body.into_body())
    }
}

/// Lets a request through to the services, or answers it.
pub(crate) async fn admit(State(gate): State<Arc<Gate>>, request: Request, next: Next) -> Result<Response, Infallible> {
    if !rest::is_grpc(request.headers()) {
        return Ok(gate.plain(request).await.unwrap_or_else(|error| rest::failure(&error)));
    }
    Ok(gate.pass(request, next).await.unwrap_or_else(|error| {
        let status = tonic::Status::from(error);
        let response = status.into_http();
        gate.metrics.answered(None, answers::code(&response), None);
        response
    }))
}

fn credentials(request: &Parts) -> Credentials {
    let authorization = request.headers.get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = authorization.and_then(|text| text.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
    Credentials {
        certificate: request.extensions.get::<PeerInfo>().and_then(|peer| peer.identity.clone()),
        token: token.map(|(_, token)| token.trim().to_owned()),
    }
}

fn address(request: &Parts) -> IpAddr {
    request.extensions.get::<PeerInfo>().map_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), |peer| peer.remote.ip())
}

fn seat(request: &Parts) -> Option<Arc<Seat>> {
    request.extensions.get().cloned()
}

/// A connection of somebody known counts for that from now on.
fn claim(request: &Parts, caller: &Caller) -> Result<(), StatusError> {
    match request.extensions.get::<Arc<Seat>>() {
        Some(seat) if caller.class != Class::Anonymous && !seat.claim(&caller.user) => {
            let message =
                format!("user {:?} has as many connections as it may, none of them idle; please use those", caller.user);
            Err(StatusError::too_many_requests(message, 1))
        }
        _ => Ok(()),
    }
}

async fn close_after(seat: Arc<Seat>, time: Duration) {
    tokio::time::sleep(time).await;
    seat.close();
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
