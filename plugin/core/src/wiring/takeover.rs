//! What to do about a link that has the name of a pair that is to be made.

use super::{Observed, Owner, Step, Wiring};
use crate::attachment::{Attachment, PodRef};

/// What to do about a link that has the name of a pair that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Takeover {
    /// It is this attachment's: complete it.
    Complete,
    /// It is this attachment's, and its far end is not where it should be, or it has another address: make it anew.
    Renew,
    /// It is an older container's of the same pod: delete it (safety rule CM3).
    TakeOver,
    /// Leave it, and say why.
    Refuse(String),
}

impl Takeover {
    /// Decides about the link. `lease` is what the store says of the attachment that the link is of, if it is another's.
    #[must_use]
    pub fn decide(observed: &Observed, pod: Option<&PodRef>, lease: Option<(&Attachment, Option<&PodRef>)>, wiring: &Wiring) -> Self {
        let Some(host) = &observed.host else { return Self::Renew };
        let name = &wiring.host_link;
        match &host.owner {
            // Two addresses would stay in the pod, and the label would name one.
            Owner::This if host.alias.as_ref().is_some_and(|alias| *alias != wiring.alias()) => Self::Renew,
            Owner::This if wiring.plan(observed).contains(&Step::Pair) => Self::Renew,
            Owner::This => Self::Complete,
            Owner::Foreign => Self::Refuse(format!("link {name} exists and was not made by azure-vnet")),
            Owner::Other(_) | Owner::Unlabelled => match (lease, pod) {
                (Some((holder, Some(theirs))), Some(ours))
                    if holder.container != wiring.attachment.container
                        && theirs.namespace == ours.namespace
                        && theirs.name == ours.name =>
                {
                    Self::TakeOver
                }
                (Some((holder, _)), _) => Self::Refuse(format!("link {name} belongs to container {}", holder.container)),
                (None, _) => Self::Refuse(format!("link {name} belongs to a container without a lease")),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wiring::plan::tests::{after, attachment, routed};

    fn pod(name: &str) -> PodRef {
        PodRef { namespace: "default".into(), name: name.into(), uid: None }
    }

    #[test]
    fn cm3_only_an_older_container_of_the_same_pod_gives_way() {
        let wiring = routed(&["10.240.0.9/16"]);
        let mut observed = after(&wiring.steps().into_iter().collect(), &wiring);
        let decide = |observed: &Observed, lease| Takeover::decide(observed, Some(&pod("web-0")), lease, &wiring);
        assert_eq!(decide(&observed, None), Takeover::Complete);
        let labelled = observed.clone();
        if let Some(host) = &mut observed.host {
            host.alias = Some(routed(&["10.240.0.8/16"]).alias());
        }
        assert_eq!(decide(&observed, None), Takeover::Renew, "a lost lease, and another address since");
        observed = labelled;
        observed.pod = None;
        assert_eq!(decide(&observed, None), Takeover::Renew);
        let (old, web, other) = (attachment("old"), pod("web-0"), pod("web-1"));
        if let Some(host) = &mut observed.host {
            host.owner = Owner::Other(old.clone());
        }
        assert_eq!(decide(&observed, Some((&old, Some(&web)))), Takeover::TakeOver);
        for lease in [None, Some((&old, None)), Some((&old, Some(&other)))] {
            assert!(matches!(decide(&observed, lease), Takeover::Refuse(_)));
        }
        if let Some(host) = &mut observed.host {
            host.owner = Owner::Foreign;
        }
        assert!(matches!(decide(&observed, Some((&old, Some(&web)))), Takeover::Refuse(_)));
    }
}
