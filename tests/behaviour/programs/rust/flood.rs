fn main() {
    for number in 0..20000 {
        println!("line {number:06}");
    }
}
