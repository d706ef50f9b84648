#[inline(never)]
fn look_up(numbers: &[i32], index: usize) -> i32 {
    numbers[index]
}

fn main() {
    println!("{}", look_up(&[1, 2, 3], std::env::args().count() + 5));
}
