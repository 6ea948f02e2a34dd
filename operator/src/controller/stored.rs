//! Objects of nodes as the cache holds them: one that this version does not understand must not keep the controller from all others (fault O6).

use std::{borrow::Cow, sync::Arc};

use azure_vnet_crds::AzureVnetNode;
use kube::{
    Resource, ResourceExt as _,
    api::ObjectMeta,
    runtime::reflector::{ObjectRef, Store, store::WriterDropped},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;

/// An `AzureVnetNode`.
#[derive(Clone, Debug)]
pub enum Stored {
    /// Understood.
    Read(Arc<AzureVnetNode>),
    /// A newer version's, most likely: an intent of another kind, say. Nothing is known of it, so that nothing is written.
    Unread {
        /// Whose it is.
        metadata: Box<ObjectMeta>,
        /// What is not understood.
        why: String,
    },
}

/// All of them.
#[derive(Clone)]
pub struct Pools(Store<Stored>);

impl From<Store<Stored>> for Pools {
    fn from(store: Store<Stored>) -> Self {
        Self(store)
    }
}

impl Pools {
    /// Those that are understood.
    pub fn state(&self) -> Vec<Arc<AzureVnetNode>> {
        self.0.state().iter().filter_map(|stored| stored.object().map(Arc::clone)).collect()
    }

    /// One by its node's name.
    pub fn get(&self, name: &str) -> Option<Arc<Stored>> {
        self.0.get(&ObjectRef::new(name))
    }

    /// The nodes of all.
    pub fn names(&self) -> Vec<String> {
        self.0.state().iter().map(|stored| stored.name_any()).collect()
    }

    /// Returns when it holds a whole list.
    ///
    /// # Errors
    /// Nobody fills it any more.
    pub async fn wait_until_ready(&self) -> Result<(), WriterDropped> {
        self.0.wait_until_ready().await
    }
}

impl Stored {
    /// The object, if it is understood.
    #[must_use]
    pub fn object(&self) -> Option<&Arc<AzureVnetNode>> {
        match self {
            Self::Read(object) => Some(object),
            Self::Unread { .. } => None,
        }
    }

    /// What is not understood.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Read(_) => None,
            Self::Unread { why, .. } => Some(why),
        }
    }
}

impl From<AzureVnetNode> for Stored {
    fn from(object: AzureVnetNode) -> Self {
        Self::Read(Arc::new(object))
    }
}

impl<'de> Deserialize<'de> for Stored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match AzureVnetNode::deserialize(&value) {
            Ok(object) => object.into(),
            Err(error) => {
                let metadata = value.get("metadata").ok_or_else(|| D::Error::missing_field("metadata"))?;
                let metadata = Box::new(ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?);
                Self::Unread { metadata, why: error.to_string() }
            }
        })
    }
}

impl Resource for Stored {
    type DynamicType = ();
    type Scope = <AzureVnetNode as Resource>::Scope;
    fn kind((): &()) -> Cow<'_, str> {
        AzureVnetNode::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        AzureVnetNode::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        AzureVnetNode::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        AzureVnetNode::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => &object.metadata,
            Self::Unread { metadata, .. } => metadata,
        }
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => &mut Arc::make_mut(object).metadata,
            Self::Unread { metadata, .. } => metadata,
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::ObjectList;
    use serde_json::json;

    use super::*;

    #[test]
    fn o6_a_list_is_read_though_some_of_it_is_a_newer_versions() {
        let object = |name: &str, spec: Value, intent: Value| json!({"metadata": {"name": name, "managedFields": []}, "spec": spec, "status": {"cloud": {"intent": intent}}});
        let list = json!({"apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetNodeList", "metadata": {}, "items": [
            object("swaps", json!({}), json!({"id": 7, "op": "Swap"})),
            object("in-24s", json!({"addresses": ["3/10.1.2.0/24"]}), json!(null)),
            object("well", json!({"addresses": ["3/10.1.2.3"]}), json!({"id": 7, "op": "Add"})),
        ]});
        let mut list: ObjectList<Stored> = serde_json::from_value(list).unwrap();
        let found: Vec<(String, bool)> =
            list.items.iter().map(|stored| (stored.meta().name.clone().unwrap(), stored.object().is_some())).collect();
        assert_eq!(found, [("swaps".to_owned(), false), ("in-24s".to_owned(), false), ("well".to_owned(), true)]);
        assert!(list.items[0].why().unwrap().contains("Swap"), "{:?}", list.items[0]);
        for stored in &mut list.items {
            stored.meta_mut().managed_fields = None;
            assert_eq!(stored.meta().managed_fields, None);
        }
    }
}
