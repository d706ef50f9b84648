use std::process::Command;

fn main() {
    // "rustc 1.63.0" or, of another distributor, "rustc 1.80.1 (3f5fd8dd4 2024-08-06)".
    let told = Command::new("rustc").arg("--version").output().unwrap();
    let words: Vec<_> = std::str::from_utf8(&told.stdout).unwrap().split(' ').take(2).collect();
    println!("{}", words.join(" ").trim_end());
}
