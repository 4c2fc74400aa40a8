//! The bootable image: joins the HAL and the sentry.
fn main() {}
