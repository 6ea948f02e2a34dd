//! The chart as helm sees it: strict lint, the committed manifests, and clear words where a value is missing.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use azure_vnet_e2e::build::{Cache, Tools, checkout};

fn helm() -> PathBuf {
    Tools::ensure(&Cache::open().unwrap()).unwrap().path("helm").unwrap().to_owned()
}

fn run_helm(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(helm()).args(arguments).current_dir(checkout()).env("HOME", home.path()).output().unwrap()
}

#[test]
fn the_chart_passes_the_strict_lint() {
    let output = run_helm(&["lint", "--strict", "charts/azure-vnet", "--set", "image.repository=registry.example/azure-vnet"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_committed_manifests_are_what_the_chart_renders() {
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new(checkout().join("manifests/render.sh")).arg(folder.path()).env("HELM", helm()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["crds.yaml", "azure-vnet.yaml", "uninstall.yaml"] {
        let (rendered, committed) =
            (fs::read_to_string(folder.path().join(name)).unwrap(), fs::read_to_string(checkout().join("manifests").join(name)).unwrap());
        assert!(rendered == committed, "manifests/{name} is not what the chart renders: run `cargo xtask generate`");
    }
}

#[test]
fn a_missing_repository_and_an_unknown_value_are_clear_errors() {
    let missing = run_helm(&["template", "azure-vnet", "charts/azure-vnet"]);
    let unknown = run_helm(&["template", "azure-vnet", "charts/azure-vnet", "--set", "image.repository=x,imagee=y"]);
    for (output, words) in [(missing, "image.repository is not set"), (unknown, "imagee")] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(words), "expected {words:?} in: {said}");
    }
}

#[test]
fn sc2_the_agent_has_no_cpu_limit() {
    let output =
        run_helm(&["template", "azure-vnet", "charts/azure-vnet", "--set", "image.repository=x", "--show-only", "templates/agent.yaml"]);
    let rendered = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && rendered.contains("requests:"), "{rendered}");
    for limits in rendered.split("limits:").skip(1) {
        let limits: String = limits.lines().take(2).collect();
        assert!(!limits.contains("cpu"), "a throttled agent misses its deadlines: {limits}");
    }
}

/// `UPDATE_SNAPSHOTS=1 cargo test` writes the file anew.
#[test]
fn everything_that_is_off_by_default_renders_as_committed() {
    let values = "e2e/tests/chart/all-values.yaml";
    let linted = run_helm(&["lint", "--strict", "charts/azure-vnet", "--values", values]);
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
    let output = run_helm(&["template", "azure-vnet", "charts/azure-vnet", "--namespace", "kube-system", "--values", values]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rendered = String::from_utf8(output.stdout).unwrap();
    let path = checkout().join("e2e/tests/chart/all.yaml");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&path, &rendered).unwrap();
    }
    assert!(rendered == fs::read_to_string(&path).unwrap_or_default(), "{} is not what the chart renders now", path.display());
}

#[test]
fn a_mirror_stands_for_the_registry_and_for_nothing_else() {
    for (repository, image) in [
        ("registry.example/a/azure-vnet", "mirror.example/m/a/azure-vnet"),
        ("localhost/azure-vnet", "mirror.example/m/azure-vnet"),
        ("registry:5000/azure-vnet", "mirror.example/m/azure-vnet"),
        ("a/azure-vnet", "mirror.example/m/a/azure-vnet"),
    ] {
        let set = format!("global.imageRegistry=mirror.example/m,image.repository={repository},image.tag=lab");
        let output = run_helm(&["template", "azure-vnet", "charts/azure-vnet", "--set", &set]);
        let rendered = String::from_utf8(output.stdout).unwrap();
        let images: Vec<&str> = rendered.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        // Agent, its installer, controller and what uninstalls.
        assert_eq!(images, [format!("{image}:lab").as_str(); 4], "{repository}");
    }
}

#[test]
fn a_digest_is_what_is_pulled_and_a_tag_that_is_given_stands_before_it() {
    let digest = format!("sha256:{}", "0123456789abcdef".repeat(4));
    for (tag, image) in [("", format!("registry.example/a@{digest}")), (",image.tag=v1", format!("registry.example/a:v1@{digest}"))] {
        let set = format!("image.repository=registry.example/a,image.digest={digest}{tag}");
        let output = run_helm(&["template", "azure-vnet", "charts/azure-vnet", "--set", &set]);
        let rendered = String::from_utf8(output.stdout).unwrap();
        let images: Vec<&str> = rendered.lines().filter_map(|line| line.trim().strip_prefix("image: ")).collect();
        assert_eq!(images, [image.as_str(); 4]);
    }
}

/// Prometheus is no part of the lab: where its tool is installed, it is asked.
#[test]
fn nodes_alerts_fire_when_they_should_by_prometheus_own_tool() {
    let mut promtool = Command::new("promtool");
    let Ok(output) = promtool.args(["test", "rules", "e2e/tests/chart/alerts.yaml"]).current_dir(checkout()).output() else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
