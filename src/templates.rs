//! To come.
pub fn evaluate(_c: &str, _v: &serde_json::Value) -> Result<bool, std::fmt::Error> {
    Ok(true)
}
pub fn render(t: &str, _v: &serde_json::Value) -> Result<String, std::fmt::Error> {
    Ok(t.to_owned())
}
