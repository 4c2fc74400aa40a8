//! Console, power and entropy.

/// The serial console, captured: read it with [`World::console`](crate::host::World::console).
pub mod console {
    use crate::host::world;

    /// Appends to the console.
    pub fn write(s: &str) {
        world().console.lock().unwrap_or_else(|e| e.into_inner()).push_str(s);
    }

    /// Appends a line to the console.
    pub fn line(s: &str) {
        write(&format!("{s}\n"));
    }
}

/// The end of the machine.
pub mod power {
    use crate::host::thread::halt;
    use crate::host::world;
    use crate::host::world::Stop;

    /// Orderly power-off: ends the simulation.
    pub fn off() -> ! {
        end(Stop::Off)
    }

    /// The kernel cannot boot: ends the simulation with this message.
    pub fn boot_failed(msg: &str) -> ! {
        end(Stop::BootFailed(msg.to_string()))
    }

    fn end(why: Stop) -> ! {
        let world = world();
        assert!(world.hooks.get().is_some(), "power off without a simulated machine");
        world.stop(why);
        halt()
    }
}

/// Random bytes for the kernel's generator.
pub mod entropy {
    use std::hash::{BuildHasher, RandomState};

    /// Fills `buf` with unpredictable bytes.
    pub fn seed(buf: &mut [u8]) {
        for chunk in buf.chunks_mut(8) {
            let word = RandomState::new().hash_one(chunk.len()).to_ne_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
