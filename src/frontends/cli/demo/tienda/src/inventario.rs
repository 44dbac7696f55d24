//! Cuántas unidades hay de cada producto.

use std::collections::BTreeMap;

/// Las existencias de la tienda.
#[derive(Debug, Default)]
pub struct Inventario {
    existencias: BTreeMap<String, i64>,
}

impl Inventario {
    /// Un inventario vacío.
    pub fn nuevo() -> Self {
        Self::default()
    }

    /// Añade unidades de un producto.
    pub fn reponer(&mut self, producto: &str, unidades: i64) {
        *self.existencias.entry(producto.to_string()).or_insert(0) += unidades;
    }

    /// Unidades que quedan de un producto; 0 si no se conoce.
    pub fn existencias(&self, producto: &str) -> i64 {
        self.existencias.get(producto).copied().unwrap_or(0)
    }

    /// Quita unidades de un producto.
    pub(crate) fn retirar(&mut self, producto: &str, unidades: i64) {
        *self.existencias.entry(producto.to_string()).or_insert(0) -= unidades;
    }
}
