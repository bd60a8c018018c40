//! The fuzz targets' bodies, over their corpus and over inputs made from it.

#[path = "../../fuzz/bodies.rs"]
mod bodies;

use std::fs;
use std::path::Path;

/// Inputs made from each target's corpus.
const GENERATED: usize = 20_000;

/// Pieces that parsers trip over.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b" ",
    b"\t",
    b"//",
    b"@",
    b"\\",
    b"#",
    b"%",
    b"%00",
    b"*",
    b";",
    b",",
    b"&",
    b"=",
    b".",
    b"..",
    b"[",
    b"]",
    b"{",
    b"}",
    b"\"",
    b"\xff",
    b"\xc3\xa4",
    b"-",
    b"+",
    b"0",
    b"ffffffffffffffff",
    b"18446744073709551616",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a\r\n",
    b"localhost",
    b"127.0.0.1",
    b"javascript:",
    b"https://",
    b"null",
    b"eyJhbGciOiJub25lIn0",
];

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

fn mutate(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut input = seeds[random.below(seeds.len())].clone();
    for _ in 0..=random.below(4) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 if at < input.len() => input[at] ^= 1 << random.below(8),
            1 => drop(input.splice(at..at, PIECES[random.below(PIECES.len())].iter().copied())),
            2 if at < input.len() => drop(input.drain(at..(at + 1 + random.below(8)).min(input.len()))),
            3 => input.truncate(at),
            4 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => {
                let end = (at + random.below(40)).min(input.len());
                let piece = input[at..end].to_vec();
                input.extend_from_slice(&piece);
            }
        }
    }
    input
}

#[test]
fn no_input_breaks_a_parser_that_strangers_reach() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    for (name, run) in bodies::TARGETS {
        let folder = fs::read_dir(corpus.join(name)).unwrap_or_else(|e| panic!("{name} has no corpus: {e}"));
        let mut files: Vec<_> = folder.map(|f| f.unwrap().path()).collect();
        files.sort();
        let seeds: Vec<Vec<u8>> = files.iter().map(|f| fs::read(f).unwrap()).collect();
        let mut random = Random(0x2545_f491_4f6c_dd1d);
        for seed in &seeds {
            run(seed);
        }
        for i in 0..GENERATED {
            let input = mutate(&mut random, &seeds);
            let result = std::panic::catch_unwind(|| run(&input));
            assert!(result.is_ok(), "{name}, input {i}: {:?}", String::from_utf8_lossy(&input));
        }
    }
}
