//! Answers every request with "<GREETING> from Edgewright". The parameter `greeting` of margo.yaml arrives as the
//! environment variable GREETING.

use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(_request: Request<Body>) -> Result<Response<Body>, Error> {
    let greeting = std::env::var("GREETING").unwrap_or_else(|_| "Hello".to_owned());
    Ok(Response::builder()
        .header("content-type", "text/plain; charset=utf-8")
        .body(format!("{greeting} from Edgewright\n").into())?)
}
