//! The table of models: windows, dated prices, switches. Data, never code that matches on a name; knows no clock.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::PROVIDERS;
use crate::core::budget::{Price, Usage, Usd};
use crate::core::time::Timestamp;

const BUILTIN: &str = include_str!("models.yaml");

/// All that a call needs to know of a model on one day.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelCard {
    /// The provider's name.
    pub provider: String,
    /// The model's id, as it goes out.
    pub id: String,
    /// The window in tokens.
    pub context: u64,
    /// The most tokens it generates, thinking included.
    pub max_output: u32,
    /// What it costs.
    pub price: Price,
    /// What it costs once the prompt is larger than that.
    pub above: Option<Above>,
    /// How it thinks; `None` leaves it to the provider.
    pub thinking: Option<Thinking>,
    /// How hard it thinks; `None` leaves it to the provider.
    pub effort: Option<String>,
    /// The version of the API, where it has one.
    pub version: Option<String>,
    /// How long a cached prompt lives; `None` asks for no cache.
    pub cache_ttl: Option<CacheTtl>,
    /// The smallest prompt that is cached, in tokens.
    pub cache_min: u64,
    /// The name of the output limit, where clones of an API disagree.
    pub max_tokens_field: MaxTokensField,
    /// The last day on which it answers, where that is known.
    pub retires: Option<Day>,
}

impl ModelCard {
    /// What a call that used `usage` costs.
    pub fn cost(&self, usage: &Usage) -> Usd {
        match &self.above {
            Some(above) if usage.prompt() > above.tokens => above.price().of(usage),
            _ => self.price.of(usage),
        }
    }

    /// What to tell of a model that has stopped to answer by then, as far as is known: the provider has the last word.
    pub fn retired(&self, at: Timestamp) -> Option<String> {
        let day = self.retires.filter(|day| Day::of(at) > *day)?;
        Some(format!(
            "the model `{}` is said to answer until {day} only; `roles` in devo.yaml can name another",
            self.id
        ))
    }
}

/// A model's thinking, in the words of the providers that have such a switch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Thinking {
    /// `adaptive`, `between_tools`, `enabled` or `disabled` (Anthropic).
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// `summarized` or `omitted` (Anthropic).
    #[serde(default)]
    pub display: Option<String>,
    /// The most tokens to think with (Anthropic 4.5 and older, Gemini 2.5 and older).
    #[serde(default)]
    pub budget_tokens: Option<u32>,
}

/// How long a cached prompt lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CacheTtl {
    /// Five minutes.
    #[serde(rename = "5m")]
    FiveMinutes,
    /// An hour.
    #[serde(rename = "1h")]
    Hour,
}

/// The name of the output limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokensField {
    /// OpenAI itself.
    #[default]
    MaxCompletionTokens,
    /// Most clones.
    MaxTokens,
}

/// What the table, or a person in `devo.yaml` under `models:`, says of a model; what is absent comes from further back.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelEntry {
    /// Whose it is; a role that names it with another provider is refused.
    pub provider: Option<String>,
    /// Other ids of the same model.
    pub aliases: Vec<String>,
    /// The window in tokens.
    pub context: Option<u64>,
    /// The most tokens it generates, thinking included.
    pub max_output: Option<u32>,
    /// The smallest prompt that is cached, in tokens.
    pub cache_min: Option<u64>,
    /// How long a cached prompt lives.
    pub cache_ttl: Option<CacheTtl>,
    /// How it thinks.
    pub thinking: Option<Thinking>,
    /// How hard it thinks: `low`, `medium`, `high`, …
    pub effort: Option<String>,
    /// The version of the API.
    pub version: Option<String>,
    /// The name of the output limit.
    pub max_tokens_field: Option<MaxTokensField>,
    /// The last day on which it answers.
    pub retires: Option<Day>,
    /// What it costs, by day.
    pub prices: Vec<DatedPrice>,
}

/// A price that holds on some days, in USD per million tokens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DatedPrice {
    /// The first day; always, if absent.
    #[serde(default)]
    pub from: Option<Day>,
    /// The last day; for ever, if absent.
    #[serde(default)]
    pub until: Option<Day>,
    /// Prompt tokens outside any cache.
    pub input: f64,
    /// Generated tokens.
    pub output: f64,
    /// Prompt tokens read from a cache.
    pub cached: f64,
    /// Writing to a 5-minute cache.
    #[serde(default)]
    pub cache_write_5m: Option<f64>,
    /// Writing to a 1-hour cache.
    #[serde(default)]
    pub cache_write_1h: Option<f64>,
    /// Larger prompts cost this.
    #[serde(default)]
    pub above: Option<Above>,
}

impl DatedPrice {
    fn holds(&self, day: Day) -> bool {
        self.from.is_none_or(|from| from <= day) && self.until.is_none_or(|until| day <= until)
    }

    fn price(&self) -> Price {
        Price {
            input: self.input,
            output: self.output,
            cached: self.cached,
            cache_write_5m: self.cache_write_5m,
            cache_write_1h: self.cache_write_1h,
        }
    }
}

/// The price of a whole request whose prompt is larger than `tokens`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Above {
    /// The largest prompt that still has the ordinary price.
    pub tokens: u64,
    /// Prompt tokens outside any cache.
    pub input: f64,
    /// Generated tokens.
    pub output: f64,
    /// Prompt tokens read from a cache.
    pub cached: f64,
    /// Writing to a 5-minute cache.
    #[serde(default)]
    pub cache_write_5m: Option<f64>,
    /// Writing to a 1-hour cache.
    #[serde(default)]
    pub cache_write_1h: Option<f64>,
}

impl Above {
    fn price(&self) -> Price {
        Price {
            input: self.input,
            output: self.output,
            cached: self.cached,
            cache_write_5m: self.cache_write_5m,
            cache_write_1h: self.cache_write_1h,
        }
    }
}

/// A day, `YYYY-MM-DD`, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(with = "String")]
pub struct Day(jiff::civil::Date);

impl Day {
    /// The day of an instant.
    pub fn of(at: Timestamp) -> Self {
        let at = jiff::Timestamp::from_millisecond(at.0).unwrap_or(if at.0 < 0 {
            jiff::Timestamp::MIN
        } else {
            jiff::Timestamp::MAX
        });
        Self(at.to_zoned(jiff::tz::TimeZone::UTC).date())
    }
}

impl std::fmt::Display for Day {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl Serialize for Day {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let day = text.parse().map_err(|_| serde::de::Error::custom(format!("`{text}` is no day like 2026-12-31")))?;
        Ok(Self(day))
    }
}

/// The models that are known, and what a person says of them.
#[derive(Debug, Clone)]
pub struct ModelTable {
    file: File,
    prices: BTreeMap<String, Price>,
    models: BTreeMap<String, ModelEntry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    updated: Day,
    defaults: BTreeMap<String, ModelEntry>,
    models: BTreeMap<String, ModelEntry>,
}

/// A model that cannot be used: nobody has said what it costs, or whose it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownModel {
    /// No price is known, so no limit could hold.
    #[error("the price of {provider}'s model `{model}` is not known{}", perhaps(.nearest.as_deref()))]
    NoPrice {
        /// The provider.
        provider: String,
        /// The model.
        model: String,
        /// A known model of that provider with a similar name.
        nearest: Option<String>,
    },
    /// The model is another provider's.
    #[error("`{model}` is a model of {owner}, not of {provider}")]
    OtherProvider {
        /// The provider that was named.
        provider: String,
        /// The model.
        model: String,
        /// Whose it is.
        owner: String,
    },
    /// There is no such provider.
    #[error(transparent)]
    Provider(#[from] super::UnknownProvider),
}

fn perhaps(nearest: Option<&str>) -> String {
    nearest.map(|near| format!(" (did you mean `{near}`?)")).unwrap_or_default()
}

impl UnknownModel {
    /// What to paste into devo.yaml, or to change there.
    pub fn hint(&self) -> String {
        match self {
            Self::NoPrice { model, .. } => {
                let plain = model.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b))
                    && model.bytes().any(|b| b.is_ascii_alphabetic());
                let key = if plain { model.clone() } else { format!("{model:?}") };
                format!(
                    "add its price to devo.yaml, in USD per million tokens (0 for a model of your own):\n\
                     prices:\n  {key}: {{input: 0, output: 0, cached: 0}}"
                )
            }
            Self::OtherProvider { owner, model, .. } => format!("write {{provider: {owner}, model: {model}}}"),
            Self::Provider(unknown) => unknown.hint(),
        }
    }
}

impl ModelTable {
    /// The table that comes with the program.
    pub fn builtin() -> Self {
        let file = serde_saphyr::from_str(BUILTIN).expect("a test reads the embedded table");
        Self { file, prices: BTreeMap::new(), models: BTreeMap::new() }
    }

    /// The same table with what `devo.yaml` says under `prices:` and `models:`, which goes first.
    #[must_use]
    pub fn with_overrides(mut self, prices: BTreeMap<String, Price>, models: BTreeMap<String, ModelEntry>) -> Self {
        self.prices.extend(prices);
        self.models.extend(models);
        self
    }

    /// The day on which the table was checked.
    pub fn updated(&self) -> Day {
        self.file.updated
    }

    /// The ids that the table knows of a provider, aliases left out.
    pub fn ids<'a>(&'a self, provider: &'a str) -> impl Iterator<Item = &'a str> {
        let of = move |entry: &ModelEntry| entry.provider.as_deref() == Some(provider);
        self.file.models.iter().filter(move |(_, entry)| of(entry)).map(|(id, _)| id.as_str())
    }

    /// The card of a provider's model at an instant. A model that the table does not know works with the provider's
    /// defaults once its price is given.
    pub fn card(&self, provider: &str, model: &str, at: Timestamp) -> Result<ModelCard, UnknownModel> {
        super::provider(provider)?;
        let known = find(&self.file.models, model);
        let said = find(&self.models, model);
        // One id may live behind several APIs (a gateway): who gives a price knows what they do.
        let priced = self.prices.contains_key(model) || said.is_some_and(|entry| !entry.prices.is_empty());
        let owner = said.and_then(|entry| entry.provider.as_deref());
        let owner = owner.or(known.filter(|_| !priced).and_then(|entry| entry.provider.as_deref()));
        if let Some(owner) = owner.filter(|owner| *owner != provider) {
            let (provider, model, owner) = (provider.to_owned(), model.to_owned(), owner.to_owned());
            return Err(UnknownModel::OtherProvider { provider, model, owner });
        }
        // The switches of a model are those of its own API.
        let known = known.filter(|entry| entry.provider.as_deref() == Some(provider));
        let layers: Vec<&ModelEntry> = [said, known, self.file.defaults.get(provider)].into_iter().flatten().collect();
        let day = Day::of(at);
        let dated = layers.iter().find(|entry| !entry.prices.is_empty());
        let dated = dated.and_then(|entry| entry.prices.iter().find(|price| price.holds(day)));
        let (price, above) = match (self.prices.get(model), dated) {
            (Some(price), _) => (*price, None),
            (None, Some(dated)) => (dated.price(), dated.above),
            (None, None) => {
                let nearest = self.nearest(provider, model);
                return Err(UnknownModel::NoPrice { provider: provider.to_owned(), model: model.to_owned(), nearest });
            }
        };
        Ok(ModelCard {
            provider: provider.to_owned(),
            id: model.to_owned(),
            context: first(&layers, |entry| entry.context).unwrap_or(128_000),
            max_output: first(&layers, |entry| entry.max_output).unwrap_or(16_384).max(1),
            price,
            above,
            thinking: first(&layers, |entry| entry.thinking.clone()),
            effort: first(&layers, |entry| entry.effort.clone()),
            version: first(&layers, |entry| entry.version.clone()),
            cache_ttl: first(&layers, |entry| entry.cache_ttl),
            cache_min: first(&layers, |entry| entry.cache_min).unwrap_or(0),
            max_tokens_field: first(&layers, |entry| entry.max_tokens_field).unwrap_or_default(),
            retires: first(&layers, |entry| entry.retires),
        })
    }

    fn nearest(&self, provider: &str, model: &str) -> Option<String> {
        let near = |id: &&str| strsim::jaro_winkler(id, model);
        let best = self.ids(provider).filter(|id| *id != model).max_by(|a, b| near(a).total_cmp(&near(b)))?;
        (strsim::damerau_levenshtein(best, model) <= 3).then(|| best.to_owned())
    }
}

fn find<'a>(models: &'a BTreeMap<String, ModelEntry>, model: &str) -> Option<&'a ModelEntry> {
    models.get(model).or_else(|| models.values().find(|entry| entry.aliases.iter().any(|alias| alias == model)))
}

fn first<T>(layers: &[&ModelEntry], field: impl Fn(&ModelEntry) -> Option<T>) -> Option<T> {
    layers.iter().find_map(|entry| field(entry))
}

/// Whether every provider named in a table exists; a table of a person's is checked with this.
pub fn unknown_providers<'a>(models: impl Iterator<Item = &'a ModelEntry>) -> Vec<String> {
    let named = models.filter_map(|entry| entry.provider.clone());
    named.filter(|name| PROVIDERS.iter().all(|provider| provider.name() != name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: &str) -> Timestamp {
        Timestamp(format!("{day}T12:00:00Z").parse::<jiff::Timestamp>().unwrap().as_millisecond())
    }

    #[test]
    fn the_embedded_table_is_whole() {
        let table = ModelTable::builtin();
        assert!(unknown_providers(table.file.models.values()).is_empty());
        for (id, entry) in &table.file.models {
            assert!(entry.provider.is_some(), "{id}");
            // Neither a gap nor an overlap: each list joins day to day and is open at both ends.
            let mut prices = entry.prices.iter();
            let Some(mut before) = prices.next() else { continue };
            assert!(before.from.is_none(), "{id}");
            for price in prices {
                assert_eq!(before.until.unwrap().0.tomorrow().unwrap(), price.from.unwrap().0, "{id}");
                before = price;
            }
            assert!(before.until.is_none(), "{id}");
            let card = table.card(entry.provider.as_ref().unwrap(), id, at("2026-11-22")).unwrap();
            assert!(u64::from(card.max_output) < card.context && card.price.cached <= card.price.input, "{id}");
        }
    }

    #[test]
    fn the_models_that_people_name_are_there() {
        let table = ModelTable::builtin();
        for (provider, model) in [
            ("anthropic", "claude-opus-5-5"),
            ("anthropic", "claude-opus-4-5"),
            ("anthropic", "claude-opus-4-5-20251101"),
            ("anthropic", "claude-sonnet-4-5"),
            ("anthropic", "claude-sonnet-4-5-20250929"),
            ("gemini", "gemini-3-flash-preview"),
            ("gemini", "gemini-3.8-flash"),
        ] {
            let card = table.card(provider, model, at("2026-11-22")).unwrap();
            assert_eq!(card.id, model, "an alias goes out as it was written");
            assert!(card.cost(&Usage { input: 1, ..Usage::default() }) > Usd(0));
        }
    }

    #[test]
    fn prices_change_by_day_and_by_the_size_of_the_prompt() {
        let table = ModelTable::builtin();
        let input = |day| table.card("gemini", "gemini-3.8-flash", at(day)).unwrap().price.input;
        assert_eq!((input("2026-12-31"), input("2027-01-01")), (0.75, 1.5));
        let haiku = table.card("anthropic", "claude-haiku-5-5", at("2026-11-22")).unwrap();
        let cost = |input| haiku.cost(&Usage { input, output: 1000, ..Usage::default() }).dollars();
        assert_eq!((cost(100_000), cost(100_001)), (0.0105, 0.0525005));
        assert!(
            table.card("anthropic", "claude-sonnet-4-5", at("2026-12-01")).unwrap().retired(at("2026-12-01")).is_some()
        );
    }

    #[test]
    fn a_price_is_all_that_an_unknown_model_needs() {
        let table = ModelTable::builtin();
        let error = table.card("openai", "llama3:8b", at("2026-11-22")).unwrap_err();
        let hint = error.hint();
        assert!(hint.ends_with("prices:\n  \"llama3:8b\": {input: 0, output: 0, cached: 0}"), "{hint}");

        // The lines of the hint are lines that devo.yaml takes.
        #[derive(Deserialize)]
        struct Lines {
            prices: BTreeMap<String, Price>,
        }
        let lines: Lines = serde_saphyr::from_str(hint.split_once('\n').unwrap().1).unwrap();
        let table = table.with_overrides(lines.prices, BTreeMap::new());
        let card = table.card("openai", "llama3:8b", at("2026-11-22")).unwrap();
        assert_eq!((card.context, card.cost(&Usage { input: 9, ..Usage::default() })), (128_000, Usd(0)));
    }

    #[test]
    fn a_persons_word_goes_first() {
        let entry: ModelEntry = serde_saphyr::from_str("{context: 9000, effort: high}").unwrap();
        let table = ModelTable::builtin()
            .with_overrides(BTreeMap::new(), BTreeMap::from([("gemini-3.8-flash".to_owned(), entry)]));
        let card = table.card("gemini", "gemini-3.8-flash", at("2026-11-22")).unwrap();
        assert_eq!((card.context, card.max_output, card.effort.as_deref()), (9000, 65536, Some("high")));
        assert_eq!(card.price.input, 0.75);
    }

    #[test]
    fn mistakes_get_an_answer() {
        let table = ModelTable::builtin();
        let typo = table.card("anthropic", "claude-opus-55", at("2026-11-22")).unwrap_err();
        assert!(typo.to_string().contains("did you mean `claude-opus-5-5`"), "{typo}");
        let other = table.card("gemini", "claude-opus-5-5", at("2026-11-22")).unwrap_err();
        assert!(other.hint().contains("provider: anthropic"), "{}", other.hint());
        let free = Price { input: 0.0, output: 0.0, cached: 0.0, cache_write_5m: None, cache_write_1h: None };
        let prices = BTreeMap::from([("claude-opus-5-5".to_owned(), free)]);
        let gateway = table.clone().with_overrides(prices, BTreeMap::new());
        let card = gateway.card("openai", "claude-opus-5-5", at("2026-11-22")).unwrap();
        assert_eq!((card.thinking, card.version), (None, None), "the switches are those of the API that is used");
        assert!(matches!(table.card("x", "y", at("2026-11-22")), Err(UnknownModel::Provider(_))));
        assert!(matches!(
            table.card("anthropic", "claude-fable-5-2", at("2026-11-22")),
            Err(UnknownModel::NoPrice { .. })
        ));
    }
}
