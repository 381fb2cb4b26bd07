use super::*;

const A: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const B: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";

fn of_image(bytes: &[u8]) -> Result<Found, String> {
    parse(bytes, "disk.qcow2", Algorithm::Sha256, Scope::Image)
}

fn of_directory(text: &str) -> Result<Found, String> {
    parse(
        text.as_bytes(),
        "disk.qcow2",
        Algorithm::Either,
        Scope::Directory,
    )
}

#[track_caller]
fn check_accepted(text: impl AsRef<[u8]>) {
    let text = text.as_ref();
    let shown = String::from_utf8_lossy(text);
    let found = of_image(text).unwrap_or_else(|error| panic!("{shown}: {error}"));
    assert_eq!(
        found.sha256.map(|d| d.to_string()).as_deref(),
        Some(A),
        "{shown}"
    );
}

#[track_caller]
fn check_refused(text: impl AsRef<[u8]>, words: &str) {
    let found = of_image(text.as_ref()).expect_err("it has no digest of disk.qcow2");
    assert!(found.contains(words), "{found}");
}

#[test]
fn a_single_line_counts_in_every_form_and_with_any_name() {
    check_accepted(A);
    check_accepted(format!("{A}\n"));
    check_accepted(format!("  {A}  \r\n\r\n"));
    check_accepted(format!("\u{feff}{A}\n"));
    check_accepted(A.to_uppercase());
    check_accepted(format!("{A}  disk.qcow2\n"));
    check_accepted(format!("{A} *disk.qcow2\n"));
    check_accepted(format!("{A}  build/another name.img\n"));
    check_accepted(format!("{A}\tdisk.qcow2\n"));
    check_accepted(format!("\\{A}  a\\\\b.img\n"));
    check_accepted(format!("SHA256 (disk.qcow2) = {A}\n"));
    check_accepted(format!("SHA256 (a) = b (1).img) = {A}\n"));
    check_accepted(format!("SHA2-256(disk.qcow2)= {A}\n"));
    check_accepted(format!("SHA256(disk.qcow2)= {A}\n"));
    check_accepted(format!("(stdin)= {A}\n"));
    check_accepted(format!("sha256:{A}\n"));
    check_accepted(format!("SHA256: {A}\n"));
    check_accepted(format!("{{\"sha256\": \"{A}\"}}\n"));
}

#[test]
fn what_windows_tools_print_is_read() {
    let table = format!(
        "\r\nAlgorithm       Hash             Path\r\n---------       ----             ----\r\n\
         SHA256          {}       C:\\img\\disk.qcow2\r\n\r\n",
        A.to_uppercase()
    );
    check_accepted(&table);
    check_accepted(format!(
        "Algorithm : SHA256\r\nHash      : {A}\r\nPath      : C:\\img\\disk.qcow2\r\n"
    ));
    check_accepted(format!(
        "SHA256 hash of disk.qcow2:\r\n{A}\r\nCertUtil: -hashfile command completed successfully.\r\n"
    ));
    let pairs: Vec<_> = (0..32).map(|at| &A[2 * at..2 * at + 2]).collect();
    check_accepted(format!(
        "SHA256 hash of file disk.qcow2:\r\n{}\r\n",
        pairs.join(" ")
    ));
    let line = format!("{A}  disk.qcow2\r\n");
    let marked = |line: &str| format!("\u{feff}{line}");
    for line in [line.clone(), marked(&line)] {
        let (little, big): (Vec<_>, Vec<_>) = line
            .encode_utf16()
            .map(|unit| (unit.to_le_bytes(), unit.to_be_bytes()))
            .unzip();
        check_accepted(little.concat());
        check_accepted(big.concat());
    }
}

#[test]
fn of_several_lines_the_one_with_the_objects_name_counts() {
    check_accepted(format!("{B}  other.qcow2\n{A}  disk.qcow2\n"));
    check_accepted(format!("{B} *other.qcow2\r\n{A} *./out/disk.qcow2\r\n"));
    check_accepted(format!("SHA256 (o) = {B}\nSHA256 (disk.qcow2) = {A}\n"));
    check_accepted(format!("{A}  disk.qcow2\n{A}  disk.qcow2\n"));
    check_accepted(format!("{A}\n{A}  disk.qcow2\n"));
    check_accepted(format!("made by hand\n{A}  disk.qcow2\n"));
    check_accepted(format!(
        "SHA3-256 (disk.qcow2) = {B}\nSHA256 (disk.qcow2) = {A}\n"
    ));
}

#[test]
fn comments_do_not_count_and_one_digest_among_words_does() {
    check_accepted(format!("# sha256 of disk.qcow2, built today\n{A}\n"));
    check_accepted(format!("# {B}\n{A}\n"));
    check_accepted(format!(
        "disk.qcow2: 609812480 bytes\nSHA256 (disk.qcow2) = {A}\n"
    ));
    check_accepted(format!(
        "# x: 609812480 bytes\nSHA256 (x-2024.qcow2) = {A}\n"
    ));
}

#[test]
fn of_a_clearsigned_text_only_what_is_signed_counts() {
    let signed = |inside: &str| {
        format!(
            "{B}  disk.qcow2\n-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\n{inside}\
             -----BEGIN PGP SIGNATURE-----\n\niQEzBAEB\n=abcd\n-----END PGP SIGNATURE-----\n{B}  disk.qcow2\n"
        )
    };
    check_accepted(signed(&format!("{A}  build-6.qcow2\n")));
    check_accepted(signed(&format!(
        "# A: 1 bytes\n- SHA256 (disk.qcow2) = {A}\nSHA256 (o) = {B}\n"
    )));
    check_refused(signed("nothing\n"), "no SHA-256 digest");
}

#[test]
fn what_holds_no_digest_is_refused_and_shown() {
    check_refused("", "it is empty");
    check_refused("\n \r\n", "it is empty");
    check_refused("<html>Not found</html>", "\"<html>Not found</html>\"");
    check_refused(&A[..63], &A[..63]);
    check_refused(format!("{A}0"), "it reads");
    check_refused(format!("{A}disk.qcow2"), "it reads");
    check_refused(format!("g{}", &A[1..]), "it reads");
    check_refused(format!("{A}{B}  disk.qcow2"), "no SHA-256 digest");
    check_refused(format!("BLAKE3 (disk.qcow2) = {A}"), "no SHA-256 digest");
    check_refused("x".repeat(500), "…");
    check_refused(b"\0\x1b[2J", "\u{fffd}");
}

#[test]
fn several_digests_without_the_objects_name_or_with_two_are_refused() {
    check_refused(
        format!("{B}  other.img\n{A}  old-name.qcow2\n"),
        "names \"disk.qcow2\"",
    );
    check_refused(
        format!("{A}  disk.qcow2\n{B}  disk.qcow2\n"),
        "different digests",
    );
}

#[test]
fn a_directory_s_file_counts_by_name_and_may_say_nothing() {
    let both = format!("{A}  disk.qcow2\n{}  disk.qcow2\n", B.repeat(2));
    let found = of_directory(&both).expect("it names it");
    assert!(found.sha256.is_some() && found.sha512.is_some());
    for nothing in ["", "<html></html>", &format!("{B}  other.qcow2\n")] {
        assert_eq!(of_directory(nothing), Ok(Found::default()), "{nothing}");
    }
    assert!(
        of_directory(&format!("{A}\n"))
            .expect("it is one")
            .sha256
            .is_some()
    );
    assert!(of_directory(&format!("{A}  disk.qcow2\n{B}  disk.qcow2\n")).is_err());
}
