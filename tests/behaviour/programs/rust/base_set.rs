use std::process::Command;

fn main() {
    let zone = Command::new("date")
        .args(["-d", "@0", "+%F %H:%M %Z"])
        .env("TZ", "America/New_York")
        .status();
    let status = Command::new("bash").arg("base_set.sh").status();
    if !(zone.is_ok() && status.is_ok()) {
        println!("{:?} {:?}", zone, status);
    }
}
