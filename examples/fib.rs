use std::env;

fn main() {
    let count: usize = env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(20);
    let (mut a, mut b) = (0u64, 1u64);
    for _ in 0..count {
        println!("{a}");
        (a, b) = (b, a.wrapping_add(b));
    }
}
