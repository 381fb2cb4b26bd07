//! `image inspect`, `image verify` and `image convert`: the daemon's image code, for a local file.
//!
//! Exit codes: 0 done; 1 reading or writing failed, or the destination is not usable; 2 the image
//! is refused; 64 the command line is wrong.

mod overlap;
mod verify;

use std::fmt::Display;
use std::io::{self, Write};
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use lvp_api::error::chain;
use lvp_api::units::ByteSize;
use lvp_image::convert::{
    ConvertOptions, Converted, convert, free_bytes, new_unnamed, open_source,
};
use lvp_image::copy::{CopyOptions, Engine, RateLimiter, TailPolicy};
use lvp_image::format::{Format, ImageType};
use lvp_image::plan::ImageInfo;
use lvp_image::unpack::{self, UnpackOptions, Unpacked};
use lvp_image::{Error, ErrorKind};
use serde_json::{Value, json};

/// Exit code when everything was done.
pub const EXIT_DONE: u8 = 0;
/// Exit code if reading or writing failed, or the destination cannot be used.
pub const EXIT_FAILED: u8 = 1;
/// Exit code if the image is refused.
pub const EXIT_REFUSED: u8 = 2;
/// Exit code of a wrong command line (EX_USAGE of sysexits.h).
pub const EXIT_USAGE: u8 = 64;

/// What to do with an image.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Show what an image is, or why it is refused
    Inspect(InspectArgs),
    /// Hold an image against the checksum files and signatures beside it
    Verify(verify::VerifyArgs),
    /// Write an image's disk to a file or a block device
    Convert(ConvertArgs),
}

/// Arguments of `image inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The image
    file: PathBuf,
    /// The declared type of the image; by default it is detected from the content
    #[arg(long, value_name = "TYPE", value_parser = image_type_parser())]
    image_type: Option<ImageType>,
    /// Compare it with the checksum files and signatures beside it first, as image verify does
    #[arg(long)]
    verify: bool,
    /// A file with public keys for --verify, one of which must have signed the image. May be given several times
    #[arg(long = "key", value_name = "FILE", requires = "verify")]
    keys: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Arguments of `image convert`.
#[derive(Debug, Args)]
pub struct ConvertArgs {
    /// The declared type of the image
    #[arg(long, value_name = "TYPE", default_value = "qcow2", value_parser = image_type_parser())]
    image_type: ImageType,
    /// Keep what a block device holds after the end of the disk
    #[arg(long)]
    keep_tail: bool,
    /// Write to a block device without first decoding every compressed cluster: faster, but a
    /// damaged cluster is then only found half-way
    #[arg(long)]
    one_pass: bool,
    /// Write at most this many bytes per second (suffixes K, M, G: powers of 1024)
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    limit_rate: Option<NonZeroU64>,
    /// Refuse a disk, or an image that has to be unpacked first, with more bytes than this (suffixes
    /// K, M, G, T). By default the limit for what is unpacked is the free space on the target's file
    /// system
    #[arg(long, value_name = "SIZE", value_parser = parse_rate)]
    max_size: Option<NonZeroU64>,
    /// The image
    source: PathBuf,
    /// A file, which is created or replaced, or a block device at least as large as the disk
    destination: PathBuf,
}

/// Runs the command and returns the exit code.
pub fn run(command: &ImageCommand) -> u8 {
    match command {
        ImageCommand::Inspect(args) => run_inspect(args),
        ImageCommand::Verify(args) => verify::run(args),
        ImageCommand::Convert(args) => run_convert(args),
    }
}

fn run_inspect(args: &InspectArgs) -> u8 {
    let verified = args.verify.then(|| verify::verify(&args.file, &args.keys));
    let verified = match verified.transpose() {
        Ok(verified) => verified,
        Err(failed) => return failed.report(),
    };
    let verdict = inspect(&args.file, args.image_type);
    let (text, code) = match &verdict {
        Err(error) if !error.kind().is_refusal() => return report(error),
        verdict if args.json => {
            let mut shown = to_json(verdict);
            if let Some(verified) = &verified {
                shown["verification"] = verified.to_json();
            }
            (format!("{shown:#}\n"), verdict_code(verdict.as_ref().err()))
        }
        Ok((info, unpacked)) => {
            let mut text = to_text(info, unpacked.as_ref());
            text.push_str(&verified.map_or_else(String::new, |it| columns(&it.lines())));
            (text, EXIT_DONE)
        }
        Err(error) => return report(error),
    };
    print(&text, code)
}

/// Writes the result, and returns the code to exit with.
fn print(text: &str, code: u8) -> u8 {
    match io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        // The reader has what it wanted and closed the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => code,
        Err(error) => complain(
            &format_args!("Cannot write the result: {error}"),
            EXIT_FAILED,
        ),
    }
}

fn run_convert(args: &ConvertArgs) -> u8 {
    let tail = if args.keep_tail {
        TailPolicy::Keep
    } else {
        TailPolicy::Zero
    };
    let mut copy = CopyOptions::new(&Engine::new(), tail);
    copy.limiter = args.limit_rate.map(|rate| Arc::new(RateLimiter::new(rate)));
    let options = ConvertOptions {
        copy,
        verify_first: !args.one_pass,
        max_bytes: args.max_size.map(NonZeroU64::get),
    };
    let declared = args.image_type;
    if overlap::is_same(&args.source, &args.destination) {
        let said = format!(
            "{} and {} are the same file or device, or one is stored on the other: the image would overwrite itself, \
             so choose another destination",
            args.source.display(),
            args.destination.display()
        );
        return complain(&said, EXIT_FAILED);
    }
    match convert(&args.source, declared, &args.destination, &options) {
        Ok(converted) => complain(&describe(&converted), EXIT_DONE),
        Err(error) => report(&error),
    }
}

/// Opens the image as the declared type, or else as the type that its first bytes show.
///
/// An image that has to be unpacked first is unpacked to a file that is removed afterwards, as a
/// job does.
fn inspect(
    path: &Path,
    declared: Option<ImageType>,
) -> Result<(ImageInfo, Option<Unpacked>), Error> {
    let source = open_source(path)?;
    let directory = std::env::temp_dir();
    let options = UnpackOptions {
        engine: Engine::new(),
        max_bytes: free_bytes(&directory),
        cancel: Arc::default(),
    };
    let scratch = || {
        new_unnamed(&directory).map_err(|error| {
            let context = format!("Cannot create a file in {}", directory.display());
            Error::io(ErrorKind::Write, context, error)
        })
    };
    let declared = declared.unwrap_or(ImageType::Auto);
    let (planner, unpacked) = unpack::open(source, declared, scratch, &options)?;
    Ok((planner.info().clone(), unpacked))
}

fn to_json(verdict: &Result<(ImageInfo, Option<Unpacked>), Error>) -> Value {
    match verdict {
        Err(error) => json!({
            "format": null,
            "virtual_size": null,
            "file_size": null,
            "allocated_bytes": null,
            "compression": null,
            "features": null,
            "extents": null,
            "package": null,
            "manifest": null,
            "refused": { "kind": error.kind().as_str(), "reason": chain(error) },
        }),
        Ok((info, unpacked)) => json!({
            "format": info.format.image_type().as_str(),
            "virtual_size": info.virtual_size,
            "file_size": info.file_size,
            "allocated_bytes": info.allocated_bytes,
            "compression": compression(info),
            "features": features(&info.format),
            "extents": info.extents,
            "package": unpacked.as_ref().map(|unpacked| &unpacked.package),
            "manifest": unpacked.as_ref().and_then(|unpacked| {
                unpacked.manifest.as_ref().map(ToString::to_string)
            }),
            "refused": null,
        }),
    }
}

fn to_text(info: &ImageInfo, unpacked: Option<&Unpacked>) -> String {
    let size = info
        .virtual_size
        .map_or_else(|| "known once decoded".to_owned(), |size| size.to_string());
    let mut lines = vec![
        ("format", info.format.image_type().to_string()),
        ("virtual size", size),
        ("file size", info.file_size.to_string()),
        ("allocated", info.allocated_bytes.to_string()),
        (
            "compression",
            compression(info).unwrap_or("none".to_owned()),
        ),
        ("extents", info.extents.to_string()),
    ];
    if let Some(unpacked) = unpacked {
        lines.push(("inside", unpacked.package.clone()));
        if let Some(manifest) = &unpacked.manifest {
            lines.push(("manifest", manifest.to_string()));
        }
    }
    if let Value::Object(features) = features(&info.format) {
        for (name, value) in &features {
            lines.push(("feature", format!("{name} = {value}")));
        }
    }
    columns(&lines)
}

fn columns(lines: &[(&str, String)]) -> String {
    lines
        .iter()
        .map(|(name, value)| format!("{name:<13} {value}\n"))
        .collect()
}

/// How the image's data is compressed; `None` if none of it is.
fn compression(info: &ImageInfo) -> Option<String> {
    match &info.format {
        Format::Qcow2(features) if info.compressed_clusters > 0 => {
            Some(features.compression.to_string())
        }
        Format::RawStream(codec) => Some(codec.to_string()),
        Format::Vmdk(_) if info.compressed_clusters > 0 => Some("zlib".to_owned()),
        _ => None,
    }
}

fn features(format: &Format) -> Value {
    match (format, format.layout()) {
        (Format::Qcow2(features), _) => json!({
            "version": features.version,
            "cluster_size": features.cluster_size,
            "extended_l2": features.extended_l2,
            "dirty": features.dirty,
            "lazy_refcounts": features.lazy_refcounts,
            "refcount_bits": features.refcount_bits,
            "snapshots": features.snapshots,
            "bitmaps": features.bitmaps,
        }),
        (_, Some(layout)) => json!({
            "subformat": layout.subformat.as_str(),
            "block_size": layout.block_size,
        }),
        (_, None) => json!({}),
    }
}

fn describe(converted: &Converted) -> String {
    let Converted { summary, unpacked } = converted;
    let mut text = format!(
        "{} bytes of disk, {} written",
        summary.virtual_size, summary.written_bytes
    );
    for zeroed in &summary.zeroed {
        text.push_str(&format!(", {} zeroed ({})", zeroed.bytes, zeroed.method));
    }
    let kept = summary.tail.bytes - summary.tail.zero_bytes;
    if kept > 0 {
        text.push_str(&format!(", {kept} after the end of the disk kept"));
    }
    let mut ignored = summary.ignored_bytes;
    if let Some(unpacked) = unpacked {
        text.push_str(&format!(", unpacked from {}", unpacked.package));
        ignored += unpacked.ignored_bytes;
    }
    if ignored > 0 {
        text.push_str(&format!(
            ", {ignored} bytes after the compressed stream ignored"
        ));
    }
    text
}

fn verdict_code(error: Option<&Error>) -> u8 {
    match error {
        None => EXIT_DONE,
        Some(error) if error.kind().is_refusal() => EXIT_REFUSED,
        Some(_) => EXIT_FAILED,
    }
}

fn report(error: &Error) -> u8 {
    let code = verdict_code(Some(error));
    let what = if code == EXIT_REFUSED {
        format!("refused ({}): ", error.kind().as_str())
    } else {
        String::new()
    };
    complain(&format_args!("{what}{}", chain(error)), code)
}

/// Prints an error to standard error, and returns the code to exit with.
fn complain(text: &dyn Display, code: u8) -> u8 {
    // If standard error is closed, nobody can be told.
    writeln!(io::stderr(), "{text}").ok();
    code
}

fn image_type_parser() -> impl TypedValueParser<Value = ImageType> {
    PossibleValuesParser::new(ImageType::ALL.iter().map(|known| known.as_str()))
        .try_map(|name| name.parse::<ImageType>())
}

fn parse_rate(text: &str) -> Result<NonZeroU64, String> {
    let size = text.parse::<ByteSize>();
    NonZeroU64::new(size.map_err(|error| error.to_string())?.0)
        .ok_or_else(|| "expected a number of bytes above 0, such as 50M".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_take_suffixes_and_refuse_nonsense() {
        let rate = |text| parse_rate(text).map(NonZeroU64::get).ok();
        assert_eq!(rate("1000"), Some(1000));
        assert_eq!(rate("50M"), Some(50 << 20));
        assert_eq!(rate("2gib"), Some(2 << 30));
        assert_eq!(rate("1.5M"), Some(3 << 19));
        for wrong in ["", "0", "M", "5X", "5GB", "-1", "99999999999G"] {
            assert_eq!(rate(wrong), None, "{wrong}");
        }
    }
}
