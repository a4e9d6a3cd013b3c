//! All addresses of a port, and what holds for each of them. Hot.
//!
//! Not a layer of the router: there it took two more boxes and two more clones of the whole way for
//! each request.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    Router,
    extract::Request,
    http::{HeaderValue, header},
    response::{IntoResponse as _, Response},
    routing::future::RouteFuture,
};
use tower::Service;

use super::problem::Problem;
use crate::wire::code::ErrorCode;

/// An answer on its way.
pub type Answer = Pin<Box<dyn Future<Output = Response> + Send>>;

/// A way past the router, which gives back what it is not for.
pub type Shortcut = Arc<dyn Fn(Request) -> Result<Answer, Request> + Send + Sync>;

/// A router, which refuses heads that mean different things to different readers, and marks every
/// answer.
#[derive(Clone)]
pub struct Site {
    router: Router,
    shortcut: Option<Shortcut>,
}

impl Site {
    /// These addresses.
    #[must_use]
    pub const fn new(router: Router) -> Self {
        Self { router, shortcut: None }
    }

    /// The same, with a way past the router, which leads where the router does.
    #[must_use]
    pub fn with(self, shortcut: Shortcut) -> Self {
        Self { shortcut: Some(shortcut), ..self }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("router", &self.router).finish_non_exhaustive()
    }
}

impl Service<Request> for Site {
    type Response = Response;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Answering {
        if let Err(problem) = check_head(&request) {
            return Answering::Refused(Some(problem));
        }
        let request = match &self.shortcut {
            Some(shortcut) => match shortcut(request) {
                Ok(answer) => return Answering::Direct(answer),
                Err(request) => request,
            },
            None => request,
        };
        Answering::Routed(self.router.call(request))
    }
}

/// The answer of a [`Site`] on its way.
#[expect(clippy::large_enum_variant, reason = "a box for each request is what this is to save")]
pub enum Answering {
    /// Refused for its head. Empty once it is answered.
    Refused(Option<Problem>),
    /// By the shortcut.
    Direct(Answer),
    /// By the router.
    Routed(RouteFuture<Infallible>),
}

impl Future for Answering {
    type Output = Result<Response, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut response = match self.get_mut() {
            Self::Refused(problem) => {
                problem.take().expect("nobody asks on for what is answered").into_response()
            }
            Self::Direct(answer) => ready!(answer.as_mut().poll(cx)),
            Self::Routed(answer) => match ready!(Pin::new(answer).poll(cx)) {
                Ok(response) => response,
            },
        };
        mark(&mut response);
        Poll::Ready(Ok(response))
    }
}

/// What a browser should know about every answer.
fn mark(response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // Most answers are about somebody, or of this moment. Those that may be kept say so.
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
}

fn check_head(request: &Request) -> Result<(), Problem> {
    let refusal = |detail: &'static str| Err(Problem::new(ErrorCode::BadRequest).detail(detail));
    if request.uri().authority().is_some() {
        return refusal("this is no proxy: the target must be a path");
    }
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts > 1 || (hosts == 0 && request.version() == hyper::Version::HTTP_11) {
        return refusal("exactly one Host is needed");
    }
    Ok(())
}
