//! What surrounds every route: trace, log line and metrics; limits of size, number and time; panics that become
//! answers; and the answers where there is no route.

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use api::Problem;
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
};
use bus::{CallerName, trace};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tokio::sync::Semaphore;
use tower_http::catch_panic::CatchPanicLayer;
use tracing::{Instrument, Span, error, field::Empty, info, info_span};
use utoipa::openapi::OpenApi;

use service::{PROBLEM_JSON, ProblemResponse, Seats};

use crate::{
    Gateway,
    access::{self, Authenticated, Demands},
    metrics,
};

/// The longest JSON body, in bytes. An assignment that names 10,000 nodes, the most that it may, has 700 kB.
const MAX_JSON: usize = 1 << 20;

/// Puts everything around the routes. A request passes the layers from the last to the first: it is observed, guarded
/// against panics, checked for access, and limited in size.
pub(crate) fn wrap(router: Router<Arc<Gateway>>, document: &OpenApi, gateway: Arc<Gateway>) -> Router {
    let demands = Arc::new(Demands::of(document));
    router
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(MAX_JSON))
        .layer(from_fn_with_state((gateway.clone(), demands), access::check))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(from_fn(observe))
        .with_state(gateway)
}

/// How many requests of one kind may be in work at once, how many of them one caller's, and for how long each.
#[derive(Clone)]
pub(crate) struct Limit {
    places: Arc<Semaphore>,
    callers: Seats<CallerName>,
    time: Duration,
}

impl Limit {
    pub(crate) fn new(places: usize, of_caller: usize, time: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), callers: Seats::new(of_caller), time }
    }
}

/// Answers 429 at once when too many requests of the caller are in work, and 503 when too many of the kind are, and 504 when a
/// request takes too long. After a 504 the order may still have been carried out, which the answer says.
pub(crate) async fn limit(
    State(limit): State<Limit>,
    request: Request,
    next: Next,
) -> Result<Response, ProblemResponse> {
    let caller = request.extensions().get::<Authenticated>();
    let _seat = match caller.map(|Authenticated(caller)| limit.callers.take(caller.name.clone())) {
        Some(None) => {
            let detail = format!("{} requests of your token are in work; try again in a moment", limit.callers.most());
            return Err(Problem::new(429, detail).into());
        }
        Some(seat) => seat,
        None => None,
    };
    let Ok(_place) = limit.places.try_acquire() else {
        return Err(Problem::unavailable("too many requests are in work; try again in a moment").into());
    };
    tokio::time::timeout(limit.time, next.run(request)).await.map_err(|_| {
        let seconds = limit.time.as_secs();
        let detail = format!("not finished within {seconds} s; whether it was carried out is not known, so look first");
        ProblemResponse::new(StatusCode::GATEWAY_TIMEOUT, detail)
    })
}

/// Gives each request one span, one log line and one count, and its answer the header `trace-id`.
async fn observe(request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = known(request.method());
    let span = info_span!(
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = method,
        url.path = request.uri().path(),
        caller = Empty,
        trace_id = Empty,
    );
    continue_trace(&span, request.headers());
    async {
        let mut response = next.run(request).await;
        let (status, took) = (response.status(), begin.elapsed());
        if status.is_server_error() {
            Span::current().record("otel.status_code", "ERROR");
        }
        if let Some(id) = trace::current_id().and_then(|id| HeaderValue::try_from(id).ok()) {
            response.headers_mut().insert("trace-id", id);
        }
        metrics::REQUESTS.with_label_values(&[method, &route, status.as_str()]).inc();
        metrics::REQUEST_SECONDS.with_label_values(&[method, &route]).observe(took.as_secs_f64());
        info!(status = status.as_u16(), milliseconds = took.as_millis() as u64, "answered");
        response
    }
    .instrument(span)
    .await
}

/// The method as a label of metrics. Callers can invent methods, and each label costs memory for ever, so all unknown
/// ones are one.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        _ => "other",
    }
}

fn continue_trace(span: &Span, headers: &HeaderMap) {
    match headers.get(trace::TRACEPARENT).and_then(|value| value.to_str().ok()) {
        Some(traceparent) => trace::continue_from_text(span, traceparent),
        None => trace::continue_from(span, None),
    }
}

async fn unknown_path(uri: Uri) -> ProblemResponse {
    Problem::not_found(format!("there is nothing at {}; GET /api/v1/openapi.json lists what there is", uri.path()))
        .into()
}

async fn unknown_method(method: Method, uri: Uri) -> ProblemResponse {
    ProblemResponse::new(
        StatusCode::METHOD_NOT_ALLOWED,
        format!("{} cannot be asked with {method}; see Allow", uri.path()),
    )
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    error!(panic = text.unwrap_or("not a text"), "a handler panicked");
    ProblemResponse::from(Problem::internal()).into_response()
}

/// Whether an answer is an RFC 9457 problem, as all our services write them.
pub(crate) fn is_problem(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value == PROBLEM_JSON)
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, routing::get};
    use tower::ServiceExt;

    use super::*;

    fn request() -> Request {
        Request::new(Body::empty())
    }

    #[tokio::test]
    async fn what_is_too_much_is_refused_at_once_and_what_takes_too_long_is_given_up() {
        let one_for_ever = Limit::new(1, 1, Duration::MAX);
        let place = one_for_ever.places.clone().acquire_owned().await.unwrap();
        let router = Router::new().route("/", get("here")).layer(from_fn_with_state(one_for_ever, limit));
        let refused = router.clone().oneshot(request()).await.unwrap();
        assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
        drop(place);
        assert_eq!(router.oneshot(request()).await.unwrap().status(), StatusCode::OK);

        let no_time = Limit::new(1, 1, Duration::ZERO);
        let silent = get(std::future::pending::<()>);
        let router = Router::new().route("/", silent).layer(from_fn_with_state(no_time, limit));
        assert_eq!(router.oneshot(request()).await.unwrap().status(), StatusCode::GATEWAY_TIMEOUT);
    }

    #[tokio::test]
    async fn a_panic_is_our_fault_and_tells_nothing_outside() {
        async fn panics() {
            panic!("a secret");
        }
        let router = Router::new().route("/", get(panics)).layer(CatchPanicLayer::custom(panicked));
        let response = router.oneshot(request()).await.unwrap();
        assert!(is_problem(response.headers()));
        assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
        let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
        assert!(!String::from_utf8_lossy(&body).contains("secret"));
    }
}
