const SIZE: usize = 800 << 20;

fn main() {
    let mut array = vec![0u8; SIZE];
    for place in 0..7 {
        array[place * (SIZE / 7)] = 1;
    }
    println!("sparse");
    if std::env::args().nth(1).unwrap() == "whole" {
        array.fill(2);
    } else {
        array = vec![0u8; 1 << 50];
    }
    println!("{}", array[std::env::args().count()]);
}
