//! Vender: lo que sale del inventario y lo que se cobra.

use crate::inventario::Inventario;

/// Una venta hecha.
#[derive(Debug, PartialEq, Eq)]
pub struct Venta {
    pub producto: String,
    pub unidades: i64,
    pub total_centimos: i64,
}

/// Por qué no se pudo vender.
#[derive(Debug, PartialEq, Eq)]
pub enum ErrorVenta {
    /// Se pidieron cero unidades o menos.
    CantidadInvalida(i64),
}

/// Vende unidades de un producto a un precio por unidad, en céntimos.
pub fn vender(
    inventario: &mut Inventario,
    producto: &str,
    unidades: i64,
    precio_centimos: i64,
) -> Result<Venta, ErrorVenta> {
    if unidades <= 0 {
        return Err(ErrorVenta::CantidadInvalida(unidades));
    }
    inventario.retirar(producto, unidades);
    Ok(Venta {
        producto: producto.to_string(),
        unidades,
        total_centimos: unidades * precio_centimos,
    })
}
