use std::{io, thread, time::Duration};

fn main() {
    let mut line = String::new();
    for number in 0..6 {
        println!("tick {number}");
        io::stdin().read_line(&mut line).unwrap();
        thread::sleep(Duration::from_millis(400));
    }
}
