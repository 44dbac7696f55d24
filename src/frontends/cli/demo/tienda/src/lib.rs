//! Una tienda de ejemplo: un inventario y las ventas que lo gastan.

pub mod inventario;
pub mod ventas;
