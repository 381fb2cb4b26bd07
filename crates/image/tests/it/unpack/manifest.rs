//! The manifest in an OVA, with the digests of its files.

use sha2::Digest as _;

use super::*;

#[test]
fn an_ovas_disk_must_have_the_digests_in_its_manifest() {
    if !qemu() || !require("tar", &["tar"]) {
        return;
    }
    let images = Images::new(3 * MIB);
    let (disk, kind) = images.converted(
        "disk.vmdk",
        "vmdk",
        "subformat=streamOptimized",
        ImageType::Vmdk,
    );
    assert_eq!(disk.file_name().unwrap(), "disk.vmdk");
    write(&images, "vm.ovf", b"<Envelope/>");
    let bytes = fs::read(&disk).unwrap();
    let hex = |sum: &[u8]| -> String { sum.iter().map(|byte| format!("{byte:02x}")).collect() };
    let sum = |algorithm: &str| match algorithm {
        "sha1" => hex(&sha1::Sha1::digest(&bytes)),
        "sha256" => hex(&sha2::Sha256::digest(&bytes)),
        _ => hex(&sha2::Sha512::digest(&bytes)),
    };
    let pack = |manifest: &str, members: &[&str]| {
        write(&images, "vm.mf", manifest.as_bytes());
        tar(&images, "vm.ova", members)
    };
    // As ovftool, VirtualBox and govc write them, before the disk or after it.
    let good = [
        format!("SHA256(vm.ovf)= 00\nSHA256(disk.vmdk)= {}\n", sum("sha256")),
        format!("SHA1 (disk.vmdk) = {}\r\n", sum("sha1").to_uppercase()),
        format!("SHA512(./disk.vmdk)={}", sum("sha512")),
        format!(
            "MD5(vm.ovf)= 1\nSHA1(disk.vmdk)= {}\nSHA256(disk.vmdk)= {}\n",
            sum("sha1"),
            sum("sha256")
        ),
    ];
    for manifest in &good {
        for members in [
            ["vm.ovf", "vm.mf", "disk.vmdk"],
            ["vm.ovf", "./disk.vmdk", "vm.mf"],
        ] {
            let packed = pack(manifest, &members);
            let converted = is_the_disk(&images, &packed, kind);
            let told = converted.unpacked.unwrap().manifest.unwrap().to_string();
            assert!(told.contains("has the digest"), "{told}");
        }
    }
    let converted = is_the_disk(&images, &pack("", &["vm.ovf", "disk.vmdk"]), kind);
    let told = converted.unpacked.unwrap().manifest.unwrap().to_string();
    assert!(told.contains("no manifest"), "{told}");
    // An archive that is no OVA need not have one.
    let converted = is_the_disk(&images, &pack("", &["disk.vmdk"]), kind);
    assert_eq!(converted.unpacked.unwrap().manifest, None);

    let wrong = sum("sha256").replace(['0', '1', '2', '3'], "4");
    for (manifest, words) in [
        (
            format!("SHA256(disk.vmdk)= {wrong}\n"),
            "the OVA's manifest says",
        ),
        // One that agrees does not make up for one that does not.
        (
            format!(
                "SHA1(disk.vmdk)= {}\nSHA256(disk.vmdk)= {wrong}\n",
                sum("sha1")
            ),
            "the OVA's manifest says",
        ),
        (
            format!("MD5(disk.vmdk)= {}\n", &wrong[..32]),
            "SHA512 are known",
        ),
        (
            format!("SHA256(disk.vmdk)= {}\n", &wrong[..63]),
            "of 64 digits",
        ),
        ("SHA256(disk.vmdk)\n".to_owned(), "of 64 digits"),
        (
            format!("SHA256(other.vmdk)= {}\n", sum("sha256")),
            "does not name",
        ),
        (String::new(), "does not name"),
    ] {
        for members in [
            ["vm.ovf", "vm.mf", "disk.vmdk"],
            ["vm.ovf", "disk.vmdk", "vm.mf"],
        ] {
            let packed = pack(&manifest, &members);
            is_refused(&images, &packed, kind, ErrorKind::BadManifest, words);
        }
    }
    fs::copy(&disk, images.path("disk2.vmdk")).unwrap();
    let packed = pack(&good[0], &["vm.ovf", "vm.mf", "disk.vmdk", "disk2.vmdk"]);
    is_refused(&images, &packed, kind, ErrorKind::OtherFormat, "disk2.vmdk");
    // Far more than any manifest.
    write(&images, "vm.mf", &vec![b' '; 2 * MIB]);
    let packed = tar(&images, "vm.ova", &["vm.ovf", "vm.mf", "disk.vmdk"]);
    is_refused(&images, &packed, kind, ErrorKind::BadStream, "too long");
}
