//! Compiles kernels/*.cu into fatbins and embeds them: `OUT_DIR/fatbins.rs`.
//!
//! A fatbin's name carries a hash of all that made it (its source, every header, the flags and the
//! compiler), so only what changed is compiled again. Without nvcc the crate builds with no kernels.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use anyhow::{Context, Result, bail, ensure};

/// Machine code for Ampere, Ada and Hopper, and PTX that the driver compiles for anything newer.
const DEFAULT_ARCHS: &str = "80,86,89,90a,ptx80";
const OLDEST_ARCH: u32 = 80;
const ARCHS_VARIABLE: &str = "BATCHLAB_CUDA_ARCHS";
/// Set where a build without kernels must not pass for a good one.
const REQUIRE_VARIABLE: &str = "BATCHLAB_REQUIRE_NVCC";
const NO_NVCC: &str = "this binary has no CUDA kernels because nvcc was not found when it was built; \
run scripts/install-nvcc.sh (or set NVCC or CUDA_HOME) and build again";

fn main() {
    if let Err(error) = embed_kernels() {
        for line in format!("{error:#}").lines() {
            println!("cargo::error={line}");
        }
        std::process::exit(1);
    }
}

fn embed_kernels() -> Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=kernels");
    let out_dir = PathBuf::from(std::env::var_os("OUT_DIR").context("cargo sets OUT_DIR")?);
    let flags = arch_flags(&variable(ARCHS_VARIABLE).unwrap_or(DEFAULT_ARCHS.into()))?;
    let code = match find_nvcc()? {
        Some(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            let fatbins = compile_all(&nvcc, &flags, &out_dir)?;
            let mut list = String::new();
            for (stem, path) in fatbins {
                write!(
                    list,
                    "Fatbin {{ stem: {stem:?}, image: include_bytes!({path:?}) }}, "
                )?;
            }
            format!("Ok(&[{list}])")
        }
        None => {
            ensure!(variable(REQUIRE_VARIABLE).is_none(), "{NO_NVCC}");
            println!("cargo::warning={NO_NVCC}");
            format!("Err({NO_NVCC:?})")
        }
    };
    let code = format!("static FATBINS: Result<&[Fatbin], &str> = {code};\n");
    fs::write(out_dir.join("fatbins.rs"), code).context("cannot write fatbins.rs")
}

/// An environment variable, watched by cargo.
fn variable(name: &str) -> Option<String> {
    println!("cargo::rerun-if-env-changed={name}");
    std::env::var(name).ok()
}

/// nvcc's flags for a list such as `80,90a,ptx80`.
fn arch_flags(list: &str) -> Result<Vec<String>> {
    let mut flags = Vec::new();
    for arch in list.split(',').map(str::trim) {
        let (kind, number) = match arch.strip_prefix("ptx") {
            Some(number) => ("compute", number),
            None => ("sm", arch),
        };
        let digits = number.trim_end_matches(['a', 'f']);
        let known = number.len() - digits.len() <= 1
            && digits.bytes().all(|b| b.is_ascii_digit())
            && digits.parse().is_ok_and(|n: u32| n >= OLDEST_ARCH);
        ensure!(
            known,
            "{ARCHS_VARIABLE}={list:?}: {arch:?} is no architecture from {OLDEST_ARCH} on; \
             write a list such as \"{DEFAULT_ARCHS}\""
        );
        flags.push(format!(
            "-gencode=arch=compute_{number},code={kind}_{number}"
        ));
    }
    Ok(flags)
}

/// The first nvcc of NVCC, CUDA_HOME, CUDA_PATH, PATH, /usr/local/cuda and .cuda (filled by
/// scripts/install-nvcc.sh, which touches this file so that cargo looks again).
fn find_nvcc() -> Result<Option<PathBuf>> {
    let name = format!("nvcc{}", std::env::consts::EXE_SUFFIX);
    if let Some(nvcc) = variable("NVCC").filter(|value| !value.is_empty()) {
        let path = PathBuf::from(&nvcc);
        ensure!(
            path.is_file(),
            "NVCC={nvcc}: no such file; correct or unset NVCC"
        );
        return Ok(Some(path));
    }
    for home in ["CUDA_HOME", "CUDA_PATH"] {
        let nvcc = variable(home).map(|home| Path::new(&home).join("bin").join(&name));
        if let Some(nvcc) = nvcc.filter(|path| path.is_file()) {
            return Ok(Some(nvcc));
        }
    }
    let path = variable("PATH").unwrap_or_default();
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").context("cargo sets it")?);
    let folders = std::env::split_paths(&path).chain([
        PathBuf::from("/usr/local/cuda/bin"),
        root.join(".cuda/nvidia/cu13/bin"),
    ]);
    Ok(folders
        .map(|folder| folder.join(&name))
        .find(|path| path.is_file()))
}

/// Every kernel's stem and its fatbin, in the order of their names.
fn compile_all(nvcc: &Path, archs: &[String], out_dir: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut sources = Vec::new();
    let mut shared = DefaultHasher::new();
    for path in sorted_files("kernels")? {
        match path.extension().and_then(OsStr::to_str) {
            Some("cu") => sources.push(path),
            Some("cuh") => fs::read(&path)?.hash(&mut shared),
            _ => {}
        }
    }
    let flags: Vec<String> = ["-O3", "-std=c++17"]
        .map(String::from)
        .into_iter()
        .chain(archs.to_vec())
        .collect();
    flags.hash(&mut shared);
    variable("NVCC_PREPEND_FLAGS").hash(&mut shared);
    variable("NVCC_APPEND_FLAGS").hash(&mut shared);
    version(nvcc)?.hash(&mut shared);

    let mut fatbins = Vec::new();
    let mut missing = VecDeque::new();
    for source in sources {
        let stem = source
            .file_stem()
            .and_then(OsStr::to_str)
            .context("kernel names are UTF-8")?
            .to_owned();
        let mut hash = shared.clone();
        fs::read(&source)?.hash(&mut hash);
        let fatbin = out_dir.join(format!("{stem}-{:016x}.fatbin", hash.finish()));
        if !fatbin.is_file() {
            missing.push_back((source, fatbin.clone()));
        }
        fatbins.push((stem, fatbin));
    }
    compile_missing(nvcc, &flags, missing)?;
    remove_stale(out_dir, &fatbins)?;
    Ok(fatbins)
}

/// Compiles with as many nvcc at a time as cargo grants jobs; the first failure is the error.
fn compile_missing(
    nvcc: &Path,
    flags: &[String],
    missing: VecDeque<(PathBuf, PathBuf)>,
) -> Result<()> {
    let jobs = std::env::var("NUM_JOBS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1usize);
    let workers = jobs.clamp(1, missing.len().max(1));
    let queue = Mutex::new(missing);
    let next = || queue.lock().ok()?.pop_front();
    let work = || -> Result<()> {
        while let Some((source, fatbin)) = next() {
            compile(nvcc, flags, &source, &fatbin)?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => bail!("a thread that runs nvcc panicked"),
            })
    })
}

fn compile(nvcc: &Path, flags: &[String], source: &Path, fatbin: &Path) -> Result<()> {
    // Under another name until it is whole.
    let partial = fatbin.with_extension("partial");
    let output = Command::new(nvcc)
        .args(flags)
        .arg("-fatbin")
        .arg("-o")
        .arg(&partial)
        .arg(source)
        .output()
        .with_context(|| format!("cannot run {}", nvcc.display()))?;
    let message = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{} failed on {}:\n{message}{}",
        nvcc.display(),
        source.display(),
        String::from_utf8_lossy(&output.stdout)
    );
    for line in message.lines() {
        println!("cargo::warning={line}");
    }
    fs::rename(&partial, fatbin).with_context(|| format!("cannot write {}", fatbin.display()))
}

/// The compiler's release, so that another nvcc at the same place compiles again.
fn version(nvcc: &Path) -> Result<Vec<u8>> {
    let output = Command::new(nvcc).arg("--version").output();
    let output = output.with_context(|| format!("cannot run {}", nvcc.display()))?;
    ensure!(
        output.status.success(),
        "{} --version failed",
        nvcc.display()
    );
    Ok(output.stdout)
}

fn sorted_files(folder: &str) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder}"))?;
    let mut paths = entries
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn remove_stale(out_dir: &Path, fatbins: &[(String, PathBuf)]) -> Result<()> {
    for path in fs::read_dir(out_dir)? {
        let path = path?.path();
        let fatbin = path.extension() == Some(OsStr::new("fatbin"));
        if fatbin && !fatbins.iter().any(|(_, kept)| *kept == path) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}
