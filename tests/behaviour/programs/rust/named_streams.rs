use std::fs;

fn main() {
    let text = fs::read("/dev/stdin").unwrap();
    fs::write("/dev/stdout", text).unwrap();
    fs::write("/dev/stderr", "and an error\n").unwrap();
    fs::write("/dev/fd/1", "by a descriptor\n").unwrap();
    assert!(fs::read("/proc/self/fd/0").unwrap().is_empty());
}
