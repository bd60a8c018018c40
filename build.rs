//! Tells the program which commit and target it was built from, for `--version`.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=SOURCE_COMMIT");
    println!("cargo::rustc-env=TARGET={}", std::env::var("TARGET").expect("cargo says for what it builds"));
    println!("cargo::rustc-env=COMMIT={}", commit());
}

/// The commit of a release build: of the checkout, or what the environment says where there is none.
fn commit() -> String {
    let unknown = || "unknown commit".to_string();
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        // Else every commit would have everything built again.
        println!("cargo::rerun-if-changed=build.rs");
        return "development build".into();
    }
    if let Ok(commit) = std::env::var("SOURCE_COMMIT")
        && !commit.is_empty()
    {
        println!("cargo::rerun-if-changed=build.rs");
        return commit.chars().take(12).collect();
    }
    for file in [".git/HEAD", ".git/logs/HEAD"] {
        if Path::new(file).exists() {
            println!("cargo::rerun-if-changed={file}");
        }
    }
    let output = Command::new("git").args(["rev-parse", "--short=12", "HEAD"]).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_string(),
        _ => unknown(),
    }
}
