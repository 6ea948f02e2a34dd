//! What the agent remembers over a reboot beside the pool: the last spec that it adopted, and on which machine. With it a node whose API server
//! is away keeps its rules and its CNI configuration. And which addresses the node's metadata had shown, and which it took back.

use std::{
    collections::BTreeSet,
    fs, io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use azure_vnet_crds::AzureVnetNodeSpec;
use azure_vnet_operator_core::{adoption, blocks};
use serde::{Deserialize, Serialize};

const FORMAT: u32 = 1;
const FILE: &str = "agent.json";

/// The record as it lies on disk.
#[derive(Deserialize, Serialize)]
struct Record<T> {
    format: u32,
    #[serde(flatten)]
    memory: T,
}

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    /// UID of the object that the spec comes from.
    #[serde(rename = "objectUID")]
    pub object_uid: String,
    /// The machine, by IMDS (safety rule RE5).
    #[serde(rename = "vmID")]
    pub vm_id: String,
    /// The spec.
    pub spec: AzureVnetNodeSpec,
    /// Addresses that IMDS has shown: the others are still new after a boot (safety rule RE6).
    pub shown: BTreeSet<Ipv4Addr>,
    /// Addresses that IMDS showed and shows no more (safety rule RE5).
    pub hidden: BTreeSet<Ipv4Addr>,
}

/// Why the record could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}", .path.display())]
pub struct MemoryError {
    path: PathBuf,
    source: io::Error,
}

impl Memory {
    /// Reads the record. One that cannot be read is none: the object, once read, replaces it, and until then nothing is built on it.
    #[must_use]
    pub fn load(folder: &Path) -> Option<Self> {
        let Record { format, memory } = serde_json::from_slice(&fs::read(folder.join(FILE)).ok()?).ok()?;
        (format == FORMAT).then_some(memory)
    }

    /// The addresses of the spec, to which packets were refused while no pod had them (safety rule PK1).
    #[must_use]
    pub fn addresses(&self) -> BTreeSet<Ipv4Addr> {
        adoption::listed(&blocks::apart(self.spec.clone())).iter().map(|slot| slot.address).collect()
    }

    /// Replaces the record.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, folder: &Path) -> Result<(), MemoryError> {
        let path = folder.join(FILE);
        let temporary = folder.join(format!("{FILE}.new"));
        let record = Record { format: FORMAT, memory: self };
        let written = serde_json::to_vec(&record).map_err(io::Error::from).and_then(|text| {
            let mut file = fs::File::create(&temporary)?;
            io::Write::write_all(&mut file, &text)?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(folder)?.sync_all()
        });
        written.map_err(|source| MemoryError { path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Memory::load(folder.path()), None);
        let spec = AzureVnetNodeSpec { revision: 7, addresses: vec!["3/10.1.4.7".parse().unwrap()], ..AzureVnetNodeSpec::default() };
        let addresses = BTreeSet::from([[10, 1, 4, 7].into()]);
        let memory = Memory { object_uid: "u".into(), vm_id: "v".into(), spec, shown: addresses.clone(), hidden: addresses };
        assert_eq!(memory.addresses().len(), 1);
        memory.save(folder.path()).unwrap();
        assert_eq!(Memory::load(folder.path()), Some(memory));
        fs::write(folder.path().join(FILE), "{\"format\": 9").unwrap();
        assert_eq!(Memory::load(folder.path()), None);
    }

    #[test]
    fn pk1_of_a_block_packets_were_refused_to_each_address() {
        let spec = AzureVnetNodeSpec { addresses: vec!["3/10.1.4.16/28".parse().unwrap()], ..AzureVnetNodeSpec::default() };
        let memory = Memory { object_uid: "u".into(), vm_id: "v".into(), spec, shown: BTreeSet::new(), hidden: BTreeSet::new() };
        let addresses = memory.addresses();
        assert_eq!((addresses.len(), addresses.last()), (16, Some(&[10, 1, 4, 31].into())));
    }
}
