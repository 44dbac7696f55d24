use tienda::inventario::Inventario;
use tienda::ventas::{vender, ErrorVenta};

#[test]
fn una_venta_gasta_existencias() {
    let mut inventario = Inventario::nuevo();
    inventario.reponer("café", 10);
    let venta = vender(&mut inventario, "café", 3, 250).unwrap();
    assert_eq!(venta.total_centimos, 750);
    assert_eq!(inventario.existencias("café"), 7);
}

#[test]
fn no_se_venden_cero_unidades() {
    let mut inventario = Inventario::nuevo();
    inventario.reponer("café", 10);
    let error = vender(&mut inventario, "café", 0, 250).unwrap_err();
    assert_eq!(error, ErrorVenta::CantidadInvalida(0));
}
