//! What QEMU calls and what it offers: version 1 of its plugin interface (`docs/devel/tcg-plugins.rst`,
//! `include/qemu/qemu-plugin.h` of QEMU 7.2), as far as it is used.
use std::ffi::{c_char, c_int, c_uint, c_void};

/// A block of translated instructions, while it is translated.
pub enum Tb {}
/// One of its instructions.
pub enum Insn {}
/// What QEMU says about itself.
pub enum Info {}

/// A callback reads no registers.
pub const NO_REGS: c_int = 0;
/// A callback is for loads.
pub const READ: c_int = 1;
/// A callback is for stores.
pub const WRITE: c_int = 2;

/// Called when a block or an instruction is executed, with what was given at its translation.
pub type Executed = unsafe extern "C" fn(cpu: c_uint, data: *mut c_void);
/// Called at each load or store, with the virtual address.
pub type Accessed = unsafe extern "C" fn(cpu: c_uint, info: u32, address: u64, data: *mut c_void);

/// The version of the interface this plugin wants.
#[unsafe(no_mangle)]
#[used]
pub static qemu_plugin_version: c_int = 1;

unsafe extern "C" {
    pub fn qemu_plugin_register_vcpu_tb_trans_cb(
        id: u64,
        callback: unsafe extern "C" fn(id: u64, tb: *mut Tb),
    );
    pub fn qemu_plugin_register_vcpu_tb_exec_cb(
        tb: *mut Tb,
        callback: Executed,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_insn_exec_cb(
        insn: *mut Insn,
        callback: Executed,
        flags: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_register_vcpu_mem_cb(
        insn: *mut Insn,
        callback: Accessed,
        flags: c_int,
        which: c_int,
        data: *mut c_void,
    );
    pub fn qemu_plugin_tb_n_insns(tb: *const Tb) -> usize;
    pub fn qemu_plugin_tb_vaddr(tb: *const Tb) -> u64;
    pub fn qemu_plugin_tb_get_insn(tb: *const Tb, index: usize) -> *mut Insn;
    pub fn qemu_plugin_insn_data(insn: *const Insn) -> *const u8;
    pub fn qemu_plugin_insn_size(insn: *const Insn) -> usize;
    pub fn qemu_plugin_insn_vaddr(insn: *const Insn) -> u64;
}

/// The plugin's beginning; `argv` are its arguments, `key=value` each.
///
/// # Safety
/// QEMU calls this once, with `argc` strings.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qemu_plugin_install(
    id: u64,
    _info: *const Info,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    for index in 0..usize::try_from(argc).unwrap_or(0) {
        // SAFETY: the caller's promise.
        let argument = unsafe { std::ffi::CStr::from_ptr(*argv.add(index)) };
        if let Some(path) = argument.to_str().ok().and_then(|text| text.strip_prefix("out=")) {
            super::install(path);
        }
    }
    // SAFETY: the callback has the right type and lives as long as the plugin.
    unsafe { qemu_plugin_register_vcpu_tb_trans_cb(id, super::translated) };
    0
}
