//! An emulated Azure of three machines, and clients of it.

use std::{io::Write as _, sync::Arc, time::Duration};

use azure_vnet_e2e::azure::{
    Class, Effect, Fault, Local, NicState, NoFabric, Seed, Settings,
    command::Call,
    seed::{CLIENT_SECRET, NODE_GROUP, OPERATOR_CLIENT_ID, SUBSCRIPTION, TENANT},
};
use azure_vnet_operator::azure::{ArmClient, ArmOptions, CredentialOptions, EndpointOptions, Secret};

use crate::controller::{Controller, Place};

pub struct Stage {
    pub local: Local,
    ca: tempfile::NamedTempFile,
}

impl Stage {
    /// `n1` is an instance of a Uniform scale set, `n2` and `n3` are VMs.
    pub async fn start(settings: Settings) -> Self {
        Self::with(&Seed::fleet(1, 2), settings).await
    }

    pub async fn with(seed: &Seed, settings: Settings) -> Self {
        // Another test of this process may have installed it.
        let _ = tokio_rustls::rustls::crypto::ring::default_provider().install_default();
        let local = Local::start(seed, settings, Arc::new(NoFabric)).await.unwrap();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(local.azure.ca_pem().as_bytes()).unwrap();
        Self { local, ca }
    }

    pub fn client(&self) -> ArmClient {
        self.client_at(&self.local.arm)
    }

    /// A client of another Resource Manager that takes tokens from this one, and trusts its certificates only.
    pub fn client_at(&self, arm: &str) -> ArmClient {
        let identity = CredentialOptions {
            client_id: Some(OPERATOR_CLIENT_ID.into()),
            tenant_id: Some(TENANT.into()),
            client_secret: Some(Secret::new(CLIENT_SECRET)),
            ..CredentialOptions::default()
        };
        let options_of_client = ArmOptions { poll: Duration::from_millis(200), ..ArmOptions::default() };
        ArmClient::new(&self.endpoints(arm).resolve(None).unwrap(), identity.credential().unwrap(), &options_of_client).unwrap()
    }

    /// Another Resource Manager, whose tokens this one gives out.
    pub fn endpoints(&self, arm: &str) -> EndpointOptions {
        EndpointOptions {
            arm: Some(arm.into()),
            authority: Some(self.local.arm.clone()),
            ca_file: Some(self.ca_file()),
            ..EndpointOptions::default()
        }
    }

    /// The certificates of its authority.
    pub fn ca_file(&self) -> std::path::PathBuf {
        self.ca.path().to_owned()
    }

    /// The controller of a node; those of one client share its budgets.
    pub async fn controller(&self, node: &str, client: &ArmClient) -> Controller {
        let place = match self.nic(node).await.id.split_once("/networkInterfaces/") {
            Some((instance, _)) if instance.contains("/virtualMachineScaleSets/") => Place::Instance(instance.parse().unwrap()),
            _ => Place::Nic(self.nic(node).await.id.parse().unwrap()),
        };
        Controller::new(node, place, client.clone())
    }

    pub async fn nic(&self, node: &str) -> NicState {
        let nics = self.local.admin.nics().await.unwrap();
        nics.into_iter().find(|nic| nic.node.as_deref() == Some(node)).unwrap()
    }

    pub async fn strike(&self, class: Class, effect: Effect, times: u32) {
        self.local.admin.inject(Fault { class: Some(class), path: None, times, effect }).await.unwrap();
    }

    /// Calls of a class with this method, in order.
    pub async fn calls(&self, class: Class, method: &str) -> Vec<Call> {
        let calls = self.local.admin.calls(0).await.unwrap();
        calls.into_iter().filter(|call| call.class == class && call.method == method).collect()
    }

    /// Writes to NICs that Azure accepted.
    pub async fn accepted(&self) -> usize {
        self.local.admin.writes().await.unwrap().len()
    }

    /// What is published is on the NIC and carries traffic, and nothing of others was touched.
    pub async fn is_sound(&self, controller: &Controller) {
        let nic = self.nic(&controller.name).await;
        let provisioned = nic.configurations.iter().filter(|config| config.provisioning_state == "Succeeded");
        let provisioned: Vec<String> = provisioned.filter_map(|config| config.address.map(|address| address.to_string())).collect();
        assert!(controller.addresses().iter().all(|address| provisioned.contains(address)), "{:?} of {nic:?}", controller.addresses());
        assert_eq!(self.local.admin.violations().await.unwrap(), Vec::<String>::new());
        assert_eq!(self.local.admin.disturbances().await.unwrap(), Vec::<String>::new());
    }
}

/// A resource of the nodes' group.
pub fn id(rest: &str) -> String {
    format!("/subscriptions/{SUBSCRIPTION}/resourceGroups/{NODE_GROUP}/providers/{rest}")
}
