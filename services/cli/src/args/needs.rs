//! Needs and fits as they are written on the command line: `cpu:2,memory:512,gpu:1,label:zone-a`.

use jetlane_schemas::{Fit, FitEntry, Needs};

/// Thousandths of a processor core in a core.
const MILLI: f64 = 1_000.0;

/// Reads `NAME:AMOUNT` pairs: `cpu` in cores, `memory` in MiB, `label` with a name, everything else a
/// resource of that name.
pub(super) fn needs(text: &str) -> Result<Needs, String> {
    let mut needs = Needs::default();
    for pair in text.split(',') {
        let wrong = |why: &str| Err(format!("{pair:?} {why}, such as cpu:2,memory:512,gpu:1,label:zone-a"));
        let Some((name, amount)) = pair.trim().split_once(':') else {
            return wrong("must be NAME:AMOUNT");
        };
        let whole = amount.parse::<u32>().ok();
        match (name, whole) {
            ("", _) => return wrong("has no name"),
            ("label", _) if amount.is_empty() => return wrong("must be label:NAME"),
            ("label", _) => drop(needs.labels.insert(amount.to_owned())),
            ("cpu", _) => match amount.parse::<f64>() {
                Ok(cores) if (0.001..=f64::from(u32::MAX) / MILLI).contains(&cores) => {
                    needs.cpu_milli = (cores * MILLI).round() as u32;
                }
                _ => return wrong("must be a number of cores, 0.001 or more"),
            },
            ("memory", Some(mib)) => needs.memory_mib = mib,
            (_, Some(amount)) => drop(needs.resources.insert(name.to_owned(), amount)),
            (_, None) => return wrong("must be a whole number"),
        }
    }
    needs.check().map_err(|error| error.to_string())?;
    Ok(needs)
}

/// Reads `NAME=NEEDS`; a bare `NAME` covers nothing in particular.
pub(super) fn fit(text: &str) -> Result<FitEntry, String> {
    let (name, covers) = match text.split_once('=') {
        Some((name, covers)) => (name, needs(covers)?),
        None => (text, Needs::default()),
    };
    Ok(FitEntry { name: Fit::new(name).map_err(|error| error.to_string())?, covers })
}

/// Needs as [`needs`] reads them; `-` for none.
pub(crate) fn written(needs: &Needs) -> String {
    let some = |name: &str, amount: u32| (amount > 0).then(|| format!("{name}:{amount}"));
    let cpu = (needs.cpu_milli > 0).then(|| format!("cpu:{}", f64::from(needs.cpu_milli) / MILLI));
    let all = [cpu, some("memory", needs.memory_mib)].into_iter().flatten();
    let all = all.chain(needs.resources.iter().map(|(name, amount)| format!("{name}:{amount}")));
    let all: Vec<String> = all.chain(needs.labels.iter().map(|label| format!("label:{label}"))).collect();
    if all.is_empty() { "-".into() } else { all.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_written_the_same() {
        for text in ["cpu:2,memory:512,gpu:1,label:zone-a", "cpu:0.5", "fpga:3,gpu:1", "label:a,label:b"] {
            assert_eq!(written(&needs(text).expect(text)), text);
        }
        assert_eq!(written(&Needs::default()), "-");
        let read = needs("cpu:1.25,memory:8192").expect("read");
        assert_eq!((read.cpu_milli, read.memory_mib), (1_250, 8_192));
    }

    #[test]
    fn what_is_no_amount_is_refused() {
        for bad in ["", "cpu", "cpu:", "cpu:-1", "cpu:0", "cpu:NaN", "memory:1.5", "gpu:one", "label:", ":1", "cpu:1,,"]
        {
            assert!(needs(bad).is_err(), "{bad:?} passed");
        }
    }

    #[test]
    fn a_fit_has_a_name_and_what_it_covers() {
        let large = fit("large=cpu:4,memory:8192").expect("read");
        assert_eq!((large.name.as_str(), large.covers.cpu_milli), ("large", 4_000));
        assert!(fit("bare").expect("read").covers.is_none());
        for bad in ["=cpu:1", "a.b=cpu:1", "large=cpu"] {
            assert!(fit(bad).is_err(), "{bad:?} passed");
        }
    }
}
