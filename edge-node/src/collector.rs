//! The certificate of the node's collector of telemetry, in a folder of its own that workloads see.
//!
//! The folder lies in the data folder, which nobody else can enter, but is itself for everybody: a container may run as any user.
//! It stays when the operator names no certificate any more, because containers that were made before want it when they start
//! again.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use anyhow::{Context, ensure};
use identity::tls::Trust;
use runtime::CERTIFICATE;

/// The folder's name in the data folder.
pub const FOLDER: &str = "collector";

/// Puts a copy of the operator's file into the folder, where running containers see it, too. A file that is no certificate is
/// refused, and so is one with a key in it, which would be given away.
pub fn keep_certificate(file: &Path, folder: &Path) -> anyhow::Result<()> {
    Trust::load(file)?;
    let pem = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
    let has_key = pem.windows(b"PRIVATE KEY".len()).any(|window| window == b"PRIVATE KEY");
    ensure!(
        !has_key,
        "{} holds a private key, and workloads would read it; give the certificate alone",
        file.display()
    );
    let path = folder.join(CERTIFICATE);
    disk::write_private(&path, &pem)
        .and_then(|()| fs::set_permissions(folder, Permissions::from_mode(0o755)))
        .and_then(|()| fs::set_permissions(&path, Permissions::from_mode(0o644)))
        .with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use testkit::Certificates;

    use super::*;

    #[test]
    fn everybody_can_read_the_copy_and_what_is_no_certificate_alone_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let (file, folder) = (place.path().join("collector.crt"), place.path().join("collector"));
        let certificates = Certificates::default();
        let key = certificates.server(&identity::tls::Peer::Hub).key;
        for wrong in [b"".to_vec(), b"no certificate".to_vec(), fs::read(key).unwrap()] {
            fs::write(&file, wrong).unwrap();
            assert!(keep_certificate(&file, &folder).is_err() && !folder.exists());
        }
        for _ in 0..2 {
            fs::write(&file, certificates.root()).unwrap();
            keep_certificate(&file, &folder).unwrap();
            let copy = folder.join(CERTIFICATE);
            assert_eq!(fs::read_to_string(&copy).unwrap(), certificates.root());
            let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
            assert_eq!((mode(&folder), mode(&copy)), (0o755, 0o644));
        }
    }
}
