//! What is made in the cluster to be asked, as objects: admitted where Pod Security is restricted.

use k8s_openapi::api::core::v1::{Namespace, Pod, Service};
use serde_json::{Value, json};

use crate::tool::exec::PROGRAM;

/// Says which run an object belongs to.
pub const RUN: &str = "azure-vnet.dev/connectivity";
/// A probe that nobody ends does so itself: a minute for each that a run may reasonably take.
pub const LIFE_SECONDS: u64 = 600;

/// What all objects of a run share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cast {
    /// Tells it from other runs; ends its probes, too.
    pub run: String,
    /// Where its objects are.
    pub namespace: String,
    /// The operator's.
    pub image: String,
    /// TCP port of the probes.
    pub port: u16,
    /// Secrets of the namespace with which the image is pulled.
    pub pull_secrets: Vec<String>,
}

impl Cast {
    /// What its objects are called, and its ephemeral containers.
    pub fn name(&self) -> String {
        format!("avn-probe-{}", self.run)
    }

    fn labels(&self) -> Value {
        json!({"app.kubernetes.io/name": "azure-vnet-connectivity", RUN: self.run})
    }

    /// A namespace of its own, for pods that may do nothing.
    pub fn own_namespace(&self) -> serde_json::Result<Namespace> {
        let mut labels = self.labels();
        if let Some(labels) = labels.as_object_mut() {
            labels.insert("pod-security.kubernetes.io/enforce".into(), "restricted".into());
        }
        serde_json::from_value(json!({"metadata": {"name": self.namespace, "labels": labels}}))
    }

    /// A pod on a node; the scheduler is passed over, as it would be of no help for a node that is full.
    pub fn pod(&self, index: usize, node: &str) -> serde_json::Result<Pod> {
        let name = format!("{}-{index}", self.name());
        let full = format!("{}/{name}", self.namespace);
        let pull_secrets: Vec<Value> = self.pull_secrets.iter().map(|name| json!({"name": name})).collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": self.namespace, "labels": self.labels()},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "activeDeadlineSeconds": LIFE_SECONDS,
                "terminationGracePeriodSeconds": 0,
                "automountServiceAccountToken": false,
                "enableServiceLinks": false,
                "imagePullSecrets": pull_secrets,
                "tolerations": [{"operator": "Exists"}],
                "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                "containers": [self.container(&full)],
            },
        }))
    }

    /// The probe; the pod's full name is what it calls itself.
    fn container(&self, full: &str) -> Value {
        let (port, life) = (self.port.to_string(), LIFE_SECONDS.to_string());
        let mut container = self.restricted("probe");
        if let Some(container) = container.as_object_mut() {
            container.insert(
                "command".into(),
                json!([PROGRAM, "probe", "serve", "--port", port, "--name", full, "--token", self.run, "--seconds", life]),
            );
            container.insert(
                "resources".into(),
                json!({"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"cpu": "100m", "memory": "64Mi"}}),
            );
        }
        container
    }

    /// A probe beside the containers of a pod that is there. Resources it cannot ask for.
    pub fn ephemeral(&self, full: &str) -> Value {
        let mut container = self.container(full);
        if let Some(container) = container.as_object_mut() {
            container.remove("resources");
            container.insert("name".into(), self.name().into());
        }
        json!({"spec": {"ephemeralContainers": [container]}})
    }

    fn restricted(&self, name: &str) -> Value {
        json!({
            "name": name,
            "image": self.image,
            "imagePullPolicy": "IfNotPresent",
            "terminationMessagePolicy": "FallbackToLogsOnError",
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true,
                "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"},
            },
        })
    }

    /// A Service before the pods of the run.
    pub fn service(&self) -> serde_json::Result<Service> {
        serde_json::from_value(json!({
            "metadata": {"name": self.name(), "namespace": self.namespace, "labels": self.labels()},
            "spec": {"selector": {RUN: self.run}, "ports": [{"port": self.port, "protocol": "TCP"}]},
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cast() -> Cast {
        Cast {
            run: "0a1b2c".into(),
            namespace: "shop".into(),
            image: "r.example/azure-vnet:1".into(),
            port: 9480,
            pull_secrets: vec!["r".into()],
        }
    }

    #[test]
    fn pods_are_what_restricted_pod_security_admits_and_end_by_themselves() {
        let pod = cast().pod(1, "n1").unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("avn-probe-0a1b2c-1"));
        let spec = serde_json::to_value(pod.spec.unwrap()).unwrap();
        assert_eq!(spec["activeDeadlineSeconds"], 600);
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "r"}]));
        assert_eq!(spec["automountServiceAccountToken"], false);
        let container = &spec["containers"][0];
        let context = &container["securityContext"];
        assert_eq!((&context["allowPrivilegeEscalation"], &context["capabilities"]["drop"][0]), (&json!(false), &json!("ALL")));
        assert_eq!((&context["runAsNonRoot"], &context["seccompProfile"]["type"]), (&json!(true), &json!("RuntimeDefault")));
        assert_eq!(cast().own_namespace().unwrap().metadata.labels.unwrap()["pod-security.kubernetes.io/enforce"], "restricted");
    }

    /// A probe is started with words that it understands.
    #[test]
    fn a_probe_is_started_with_flags_that_it_has() {
        use clap::Parser as _;
        let pod = cast().pod(0, "n1").unwrap();
        let command = pod.spec.unwrap().containers.remove(0).command.unwrap();
        crate::cli::Cli::try_parse_from(command).unwrap();
        let patch = cast().ephemeral("shop/web-0");
        let container = &patch["spec"]["ephemeralContainers"][0];
        assert_eq!(container["name"], "avn-probe-0a1b2c");
        assert!(container["command"].to_string().contains("shop/web-0") && container.get("resources").is_none(), "{container}");
    }

    #[test]
    fn a_service_chooses_the_pods_of_its_run_alone() {
        let service = cast().service().unwrap();
        assert_eq!(service.spec.unwrap().selector.unwrap(), [(RUN.to_owned(), "0a1b2c".to_owned())].into());
    }
}
