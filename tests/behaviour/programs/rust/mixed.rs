use std::io::Read;

fn main() {
    let number: i32 = std::env::args().nth(1).unwrap().parse().unwrap();
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).unwrap();
    println!("rust {} {}", number, text.len());
    eprintln!("error {}", number);
    std::fs::write("square.txt", format!("{}\n", number * number)).unwrap();
    std::process::exit(number % 100);
}
