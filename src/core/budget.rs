//! Money and tokens: what a model call used, what it cost, and what a run may still spend.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An amount of US dollars, kept in whole billionths so that sums are exact; its text form is a number of dollars.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Usd(pub u64);

impl Usd {
    /// From dollars; negative amounts and NaN count as nothing, absurd ones as the largest.
    pub fn from_dollars(dollars: f64) -> Self {
        // `as` saturates and maps NaN to 0: exactly what is wanted here.
        Self((dollars * 1e9).round() as u64)
    }

    /// In dollars.
    pub fn dollars(self) -> f64 {
        self.0 as f64 / 1e9
    }
}

impl std::ops::Add for Usd {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl Serialize for Usd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(self.dollars())
    }
}

impl<'de> Deserialize<'de> for Usd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        f64::deserialize(deserializer).map(Self::from_dollars)
    }
}

/// Tokens of one or more model calls, in the five figures that are priced apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// Prompt tokens that were neither read from nor written to a cache.
    pub input: u64,
    /// Prompt tokens read from the provider's cache.
    pub cache_read: u64,
    /// Prompt tokens written to a cache that lives 5 minutes.
    pub cache_write_5m: u64,
    /// Prompt tokens written to a cache that lives an hour.
    pub cache_write_1h: u64,
    /// Generated tokens, thinking included.
    pub output: u64,
    /// The thinking part of `output`.
    pub reasoning: u64,
}

impl Usage {
    /// The size of the prompt, cached or not.
    pub fn prompt(&self) -> u64 {
        [self.cache_read, self.cache_write_5m, self.cache_write_1h]
            .iter()
            .fold(self.input, |sum, n| sum.saturating_add(*n))
    }

    /// Prompt and output together.
    pub fn total(&self) -> u64 {
        self.prompt().saturating_add(self.output)
    }
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        // The figures are a provider's: a sum that wraps would pass under any limit.
        let add = |to: &mut u64, more: u64| *to = to.saturating_add(more);
        add(&mut self.input, other.input);
        add(&mut self.cache_read, other.cache_read);
        add(&mut self.cache_write_5m, other.cache_write_5m);
        add(&mut self.cache_write_1h, other.cache_write_1h);
        add(&mut self.output, other.output);
        add(&mut self.reasoning, other.reasoning);
    }
}

/// US dollars per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Price {
    /// Prompt tokens outside any cache.
    pub input: f64,
    /// Generated tokens.
    pub output: f64,
    /// Prompt tokens read from a cache.
    pub cached: f64,
    /// Writing to a 5-minute cache; the input price where the provider charges nothing extra.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_5m: Option<f64>,
    /// Writing to a 1-hour cache.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache_write_1h: Option<f64>,
}

impl Price {
    /// What a call that used `usage` costs.
    pub fn of(&self, usage: &Usage) -> Usd {
        let part = |tokens: u64, per_million: f64| tokens as f64 * per_million / 1e6;
        Usd::from_dollars(
            part(usage.input, self.input)
                + part(usage.cache_read, self.cached)
                + part(usage.cache_write_5m, self.cache_write_5m.unwrap_or(self.input))
                + part(usage.cache_write_1h, self.cache_write_1h.unwrap_or(self.input))
                + part(usage.output, self.output),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_has_its_own_price() {
        let price =
            Price { input: 4.0, output: 20.0, cached: 0.2, cache_write_5m: Some(5.0), cache_write_1h: Some(8.0) };
        let usage = Usage {
            input: 1000,
            cache_read: 1000,
            cache_write_5m: 1000,
            cache_write_1h: 1000,
            output: 1000,
            reasoning: 900,
        };
        assert_eq!(price.of(&usage), Usd::from_dollars(0.0372));
        assert_eq!(usage.prompt(), 4000);
    }

    #[test]
    fn odd_amounts_do_not_wrap() {
        assert_eq!(Usd::from_dollars(-1.0), Usd(0));
        assert_eq!(Usd::from_dollars(f64::NAN), Usd(0));
        assert_eq!(Usd::from_dollars(f64::INFINITY) + Usd(1), Usd(u64::MAX));
        let most = Usage {
            input: u64::MAX,
            cache_read: u64::MAX,
            cache_write_5m: u64::MAX,
            cache_write_1h: u64::MAX,
            output: u64::MAX,
            reasoning: u64::MAX,
        };
        let mut sum = most;
        sum += most;
        assert_eq!((sum, sum.prompt(), sum.total()), (most, u64::MAX, u64::MAX));
    }
}
