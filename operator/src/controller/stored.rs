//! Objects of ours as the caches hold them: one that this version does not understand must not keep the controller from all others (faults K5, O6).

use std::{borrow::Cow, sync::Arc};

use azure_vnet_crds::{AzureVnetConfig, AzureVnetNode};
use kube::{
    Resource, ResourceExt as _,
    api::ObjectMeta,
    runtime::reflector::{ObjectRef, Store, store::WriterDropped},
};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, Error as _},
};
use serde_json::Value;

/// An `AzureVnetNode` or `AzureVnetConfig`.
#[derive(Clone, Debug)]
pub enum Stored<K> {
    /// Understood.
    Read(Arc<K>),
    /// A newer version's, most likely: an intent of another kind, say. Nothing is known of it, so that nothing is written by it.
    Unread {
        /// Whose it is.
        metadata: Box<ObjectMeta>,
        /// What is not understood.
        why: String,
    },
}

/// What is asked of a kind whose objects are held so.
pub trait Kind: Resource<DynamicType = ()> + Clone + 'static {}

impl Kind for AzureVnetNode {}
impl Kind for AzureVnetConfig {}

/// All of a kind.
#[derive(Clone)]
pub struct All<K: Kind>(Store<Stored<K>>);

/// The objects of all nodes.
pub type Pools = All<AzureVnetNode>;
/// All configs.
pub type Configs = All<AzureVnetConfig>;

impl<K: Kind> From<Store<Stored<K>>> for All<K> {
    fn from(store: Store<Stored<K>>) -> Self {
        Self(store)
    }
}

impl<K: Kind> All<K> {
    /// Those that are understood.
    pub fn state(&self) -> Vec<Arc<K>> {
        self.0.state().iter().filter_map(|stored| stored.object().map(Arc::clone)).collect()
    }

    /// Those that are not.
    pub fn unread(&self) -> Vec<Arc<Stored<K>>> {
        self.0.state().into_iter().filter(|stored| stored.why().is_some()).collect()
    }

    /// One by its name.
    pub fn get(&self, name: &str) -> Option<Arc<Stored<K>>> {
        self.0.get(&ObjectRef::new(name))
    }

    /// The names of all.
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

impl<K> Stored<K> {
    /// The object, if it is understood.
    #[must_use]
    pub fn object(&self) -> Option<&Arc<K>> {
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

impl<K: Kind> From<K> for Stored<K> {
    fn from(object: K) -> Self {
        Self::Read(Arc::new(object))
    }
}

impl<'de, K: Kind + DeserializeOwned> Deserialize<'de> for Stored<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Ok(match K::deserialize(&value) {
            Ok(object) => object.into(),
            Err(error) => {
                let metadata = value.get("metadata").ok_or_else(|| D::Error::missing_field("metadata"))?;
                let metadata = Box::new(ObjectMeta::deserialize(metadata).map_err(D::Error::custom)?);
                Self::Unread { metadata, why: error.to_string() }
            }
        })
    }
}

impl<K: Kind> Resource for Stored<K> {
    type DynamicType = ();
    type Scope = K::Scope;
    fn kind((): &()) -> Cow<'_, str> {
        K::kind(&())
    }
    fn group((): &()) -> Cow<'_, str> {
        K::group(&())
    }
    fn version((): &()) -> Cow<'_, str> {
        K::version(&())
    }
    fn plural((): &()) -> Cow<'_, str> {
        K::plural(&())
    }
    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Read(object) => object.meta(),
            Self::Unread { metadata, .. } => metadata,
        }
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Read(object) => Arc::make_mut(object).meta_mut(),
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
        let mut list: ObjectList<Stored<AzureVnetNode>> = serde_json::from_value(list).unwrap();
        let found: Vec<(String, bool)> =
            list.items.iter().map(|stored| (stored.meta().name.clone().unwrap(), stored.object().is_some())).collect();
        assert_eq!(found, [("swaps".to_owned(), false), ("in-24s".to_owned(), false), ("well".to_owned(), true)]);
        assert!(list.items[0].why().unwrap().contains("Swap"), "{:?}", list.items[0]);
        for stored in &mut list.items {
            stored.meta_mut().managed_fields = None;
            assert_eq!(stored.meta().managed_fields, None);
        }
    }

    #[test]
    fn k5_a_config_that_a_newer_version_wrote_keeps_no_other_from_being_read() {
        let config = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
        let list = json!({"apiVersion": "azure-vnet.dev/v1alpha1", "kind": "AzureVnetConfigList", "metadata": {}, "items": [
            config("newer", json!({"mode": "Observe"})),
            config("well", json!({"mode": "Plan"})),
        ]});
        let list: ObjectList<Stored<AzureVnetConfig>> = serde_json::from_value(list).unwrap();
        let found: Vec<Option<&str>> = list.items.iter().map(Stored::why).collect();
        assert!(matches!(found[..], [Some(why), None] if why.contains("Observe")), "{found:?}");
    }
}
