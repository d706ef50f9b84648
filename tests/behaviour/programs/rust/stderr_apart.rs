fn main() {
    for number in 0..3 {
        println!("out {number}");
        eprintln!("err {number}");
    }
}
