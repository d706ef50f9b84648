use std::io::Read;

fn main() {
    let mut data = Vec::new();
    std::io::stdin().read_to_end(&mut data).unwrap();
    let lines = data.iter().filter(|&&byte| byte == b'\n').count();
    println!("{} bytes, {lines} lines", data.len());
}
