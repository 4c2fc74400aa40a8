//! Packs a directory or tar archive: `cargo run -p ringfence-image --release --example pack -- SOURCE OUT`.
use std::path::Path;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let start = std::time::Instant::now();
    let source = Path::new(&args[1]);
    let (out, options) = (Path::new(&args[2]), ringfence_image::Options::default());
    let done = if source.is_dir() {
        ringfence_image::build_from_dir(source, out, &options, &mut |_| ())
    } else {
        let file = std::fs::File::open(source).expect("the archive opens");
        ringfence_image::build_from_tar(file, out, &options, &mut |_| ())
    };
    match done {
        Ok(summary) => println!("{summary:?} in {:?}", start.elapsed()),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}
