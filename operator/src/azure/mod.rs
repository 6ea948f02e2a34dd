//! Azure from outside: Resource Manager, its tokens, the instance metadata service, the host agent.
//! What to ask and what answers mean for a node is decided elsewhere.

pub mod budget;
mod client;
pub mod credential;
pub mod endpoint;
pub mod imds;
pub(crate) mod meter;
mod operation;
pub mod retry;
pub mod secret;
pub mod subscriptions;
pub mod transport;
pub mod wireserver;

use std::future::Future;

use azure_vnet_operator_core::arm::{Document, Error, Read, Urgency, Write};
pub use budget::Level;
pub use client::{ArmClient, ArmOptions};
pub use credential::{Credential, CredentialOptions};
pub use endpoint::{EndpointOptions, Endpoints};
pub use secret::Secret;

/// Resource Manager as the controller sees it.
pub trait Arm: Send + Sync + 'static {
    /// One GET (lists: all pages joined into `{"value": […]}`). Asks once more with another token when one is refused; repeats nothing else.
    fn read(&self, read: &Read, urgency: Urgency) -> impl Future<Output = Result<Document, Error>> + Send;

    /// One PUT with `If-Match`, its operation followed to the end. `Ok`: it succeeded.
    ///
    /// `may_send` is asked right before the bytes leave, after every wait. Nothing is sent twice, except with another token
    /// after the first was refused. After ten minutes following ends, and the outcome is unknown.
    fn write(
        &self,
        write: &Write,
        urgency: Urgency,
        may_send: &(dyn Fn() -> bool + Send + Sync),
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Sets the share of every budget that is left to others.
    fn reserve(&self, _percent: u8) {}

    /// Whether Azure has stopped to answer what is about a subscription, by its id in lower case.
    fn is_silent(&self, _subscription: &str) -> bool {
        false
    }

    /// What is left of every budget.
    fn levels(&self) -> Vec<Level> {
        vec![]
    }
}
