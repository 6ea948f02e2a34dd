//! What is published: an archive of plugins for each architecture, and the script that installs one.
#![expect(clippy::unwrap_used, reason = "a test says what it expected by failing there")]

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use azure_vnet_e2e::{
    build::{Architecture, Operator, checkout, require_emulator, require_packages},
    dist,
};
use serde_json::Value;

use crate::{https, names, run};

#[test]
fn the_archive_is_installed_after_its_checksum_and_not_before() {
    require_packages().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (dist, bin, conf) = (folder.path().join("dist"), folder.path().join("bin"), folder.path().join("conf"));
    let written = dist::run(&dist, Some("v9.9.9"), &[Architecture::of_this_machine()], Some(Operator::Quick)).unwrap();
    assert_eq!(written.len(), 4);
    let archive = written[0].clone();
    let install_from = |from: &str, trusted: &Path, arguments: &[&str]| {
        let mut command = Command::new(checkout().join("scripts/install-cni-plugin.sh"));
        command.args(arguments).args(["--from", from]).env("CNI_BIN_DIR", &bin).env("CNI_CONF_DIR", &conf);
        command.env("CURL_CA_BUNDLE", trusted).env("NO_PROXY", "127.0.0.1").output().unwrap()
    };
    let install = |arguments: &[&str]| install_from(dist.to_str().unwrap(), Path::new("/dev/null"), arguments);
    let said = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let usage = install(&[]);
    assert!(usage.status.code() == Some(1) && said(&usage).contains("AZURE_CNI_VERSION"), "{}", said(&usage));
    let without = install(&["v9.9.9"]);
    assert!(!without.status.success() && said(&without).contains("loopback"), "{}", said(&without));
    is_kubectls_plugin(&dist, &written[1]);
    reference(&dist);
    let done = install(&["v9.9.9", "v1.2.3"]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(names(&bin), ["azure-vnet", "azure-vnet-ipam", "loopback", "portmap"]);
    assert_eq!(names(&conf), ["10-azure.conflist"]);
    let again = install(&["v9.9.9"]);
    assert!(again.status.success(), "the reference plugins are there already: {}", said(&again));

    let served = https::serve(&dist, folder.path());
    fs::remove_dir_all(&bin).unwrap();
    let stranger = install_from(&served.url, Path::new("/dev/null"), &["v9.9.9", "v1.2.3"]);
    assert!(!stranger.status.success() && !bin.exists(), "whoever is not trusted brings nothing: {}", said(&stranger));
    let plain = install_from(&served.url.replace("https", "http"), &served.certificate, &["v9.9.9", "v1.2.3"]);
    assert!(!plain.status.success() && said(&plain).contains("use https://"), "{}", said(&plain));
    let done = install_from(&format!("{}/", served.url), &served.certificate, &["v9.9.9", "v1.2.3"]);
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(names(&bin), ["azure-vnet", "azure-vnet-ipam", "loopback", "portmap"]);

    let mut damaged = fs::read(&archive).unwrap();
    damaged[20] ^= 1;
    fs::write(&archive, damaged).unwrap();
    fs::remove_dir_all(&bin).unwrap();
    let refused = install(&["v9.9.9", "v1.2.3"]);
    assert!(!refused.status.success() && said(&refused).contains("checksum") && !bin.exists(), "{}", said(&refused));
    let refused = install_from(&served.url, &served.certificate, &["v9.9.9", "v1.2.3"]);
    assert!(!refused.status.success() && said(&refused).contains("checksum") && !bin.exists(), "{}", said(&refused));
    let absent = install(&["v0.0.1"]);
    assert!(!absent.status.success() && said(&absent).contains("there is no"), "{}", said(&absent));
}

/// What an archive's checksum stands for answers as the plugin of kubectl by that name.
fn is_kubectls_plugin(dist: &Path, archive: &Path) {
    let (name, folder) = (archive.file_name().unwrap().to_str().unwrap(), tempfile::tempdir().unwrap());
    let sums = fs::read_to_string(dist.join("SHA256SUMS")).unwrap();
    assert!(sums.contains(&format!("{}  {name}\n", run("sha256sum", &[archive.to_str().unwrap()]).split(' ').next().unwrap())), "{sums}");
    let plugin = folder.path().join("kubectl-azure_vnet");
    run("tar", &["--extract", "--file", archive.to_str().unwrap(), "--directory", folder.path().to_str().unwrap()]);
    fs::rename(folder.path().join("azure-vnet-operator"), &plugin).unwrap();
    assert!(run(plugin.to_str().unwrap(), &["--help"]).contains("preflight"));
}

/// An archive of reference plugins as their project makes it, and its line in SHA256SUMS.
fn reference(dist: &Path) {
    let architecture = Architecture::of_this_machine().name();
    let name = format!("cni-plugins-linux-{architecture}-v1.2.3.tgz");
    let path = dist.join(&name);
    run("tar", &["--create", "--gzip", "--file", path.to_str().unwrap(), "--directory", "/usr/lib/cni", "./loopback", "./portmap"]);
    let sum = run("sha256sum", &[path.to_str().unwrap()]);
    let line = format!("{}  {name}\n", sum.split(' ').next().unwrap());
    let sums = dist.join("SHA256SUMS");
    fs::write(&sums, fs::read_to_string(&sums).unwrap() + &line).unwrap();
}

#[test]
fn the_plugins_for_arm_run_there() {
    require_packages().unwrap();
    let emulator = require_emulator(Architecture::Arm64).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let written = dist::run(folder.path(), Some("v9.9.9"), &[Architecture::Arm64], Some(Operator::Quick)).unwrap();
    assert_eq!(written[0].file_name().unwrap(), "azure-vnet-cni-linux-arm64-v9.9.9.tgz");
    run("tar", &["--extract", "--file", written[0].to_str().unwrap(), "--directory", folder.path().to_str().unwrap()]);
    for plugin in ["azure-vnet", "azure-vnet-ipam"] {
        let program = folder.path().join(plugin);
        let header = fs::read(&program).unwrap();
        assert_eq!((&header[..4], header[18]), (&b"\x7fELF"[..], 183), "an executable for AArch64");
        let asked = |command: &str| {
            let mut emulated = Command::new(&emulator);
            emulated.arg(&program).env_clear().env("CNI_COMMAND", command).current_dir(folder.path());
            let output = emulated.stdin(fs::File::open("/dev/null").unwrap()).output().unwrap();
            serde_json::from_slice::<Value>(&output.stdout).unwrap_or_else(|_| panic!("{plugin}: {output:?}"))
        };
        let versions = asked("VERSION");
        assert_eq!(versions["supportedVersions"].as_array().unwrap().last().unwrap(), "1.1.0", "{versions}");
        assert_eq!(asked("ADD")["code"], 6, "nothing is configured");
    }
}
