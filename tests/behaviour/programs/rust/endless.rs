fn main() {
    println!("before the end of time");
    loop {
        std::hint::spin_loop();
    }
}
