//! The way to an object storage, as `object_store` wants it.

use async_trait::async_trait;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use object_store::ClientOptions;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};

use crate::http::{Client, Error, Invalid};

/// Makes connections. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Wire(Client);

impl Wire {
    /// Trusts this certificate authority, PEM, or those of the system.
    pub fn new(authority: Option<&[u8]>) -> Result<Self, Invalid> {
        Ok(Self(Client::new(authority)?))
    }
}

#[async_trait]
impl HttpService for Wire {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let answer = self.0.send(request).await.map_err(|error| match error {
            Error::TimedOut | Error::Unreachable(_) => HttpError::new(HttpErrorKind::Connect, error),
            Error::Http(_) | Error::Body => HttpError::new(HttpErrorKind::Request, error),
            Error::Request(_) => HttpError::new(HttpErrorKind::Unknown, error),
        })?;
        let body =
            |body: Incoming| HttpResponseBody::new(body.map_err(|error| HttpError::new(HttpErrorKind::Interrupted, error)));
        Ok(answer.map(body))
    }
}

impl HttpConnector for Wire {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.clone()))
    }
}
