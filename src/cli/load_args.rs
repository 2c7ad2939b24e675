//! The options of `batchlab sweep` that say how requests come.

use batchlab::Error;
use batchlab::sweep::LoadChoice;
use clap::ValueEnum;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// day2: closed loop, then Poisson at half its throughput; saturation: the same loads for all
    /// cells; the others put every cell under one [default: that of the experiment]
    #[arg(long, value_name = "LOAD")]
    pub load: Option<LoadKind>,
    /// Clients of a closed loop [default: the batch size]; with --target a list
    #[arg(long, value_delimiter = ',', value_name = "N")]
    pub max_concurrency: Option<Vec<usize>>,
    /// Requests per second of Poisson arrivals
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "LIST",
        allow_hyphen_values = true
    )]
    pub request_rate: Option<Vec<f64>>,
    /// Shape of the gaps between arrivals: 1 = Poisson, below 1 burstier
    #[arg(
        long,
        default_value_t = 1.0,
        value_name = "SHAPE",
        allow_hyphen_values = true
    )]
    pub burstiness: f64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LoadKind {
    Day2,
    Saturation,
    Closed,
    Poisson,
    Offline,
}

impl LoadArgs {
    /// That of a grid over a server.
    pub fn choice_of_server(&self) -> Result<LoadChoice, Error> {
        if let Some(LoadKind::Day2 | LoadKind::Saturation) = self.load {
            return Err(Error::Usage(
                "--load day2 and --load saturation go by batch sizes, which a server keeps to \
                 itself; with --target give closed, poisson or offline, or leave it out"
                    .into(),
            ));
        }
        // How many clients there are is the grid's.
        let one = Self {
            max_concurrency: self.max_concurrency.as_ref().map(|_| vec![1]),
            ..self.clone()
        };
        Ok(match one.choice(&[])? {
            None => LoadChoice::server(self.burstiness),
            Some(LoadChoice::Closed { .. }) => LoadChoice::Closed { concurrency: None },
            Some(choice) => choice,
        })
    }

    /// None: nothing was said, so the experiment's own.
    pub fn choice(&self, batch_sizes: &[usize]) -> Result<Option<LoadChoice>, Error> {
        use LoadKind::{Closed, Day2, Offline, Poisson, Saturation};
        let burstiness = self.burstiness;
        let usage = |message: &str| Err(Error::Usage(message.into()));
        let rates = self.request_rate.clone();
        let clients = match self.max_concurrency.as_deref() {
            None => None,
            Some(&[clients]) => Some(clients),
            Some(_) => return usage("--max-concurrency takes several numbers only with --target"),
        };
        let choice = match (self.load, clients, rates) {
            (_, Some(_), Some(_)) => {
                return usage(
                    "--max-concurrency is for a closed loop and --request-rate for Poisson \
                     arrivals; give one of them",
                );
            }
            (Some(Day2 | Saturation | Offline), Some(_), _) => {
                return usage("--max-concurrency is for --load closed; leave one of the two out");
            }
            (Some(Day2 | Saturation | Offline | Closed), _, Some(_)) => {
                return usage("--request-rate is for --load poisson; leave one of the two out");
            }
            (Some(Poisson), Some(_), None) => {
                return usage(
                    "--max-concurrency is for --load closed; give --request-rate instead",
                );
            }
            (Some(Poisson), None, None) => {
                return usage("--load poisson needs a rate; give --request-rate");
            }
            (None, None, None) => return Ok(None),
            (_, None, Some(rates)) => LoadChoice::Poisson { rates, burstiness },
            (Some(Closed), concurrency, None) | (None, concurrency @ Some(_), None) => {
                LoadChoice::Closed { concurrency }
            }
            (Some(Offline), None, None) => LoadChoice::Offline,
            (Some(Day2), None, None) => LoadChoice::day2(burstiness),
            (Some(Saturation), None, None) => LoadChoice::saturation(batch_sizes, burstiness),
        };
        Ok(Some(choice))
    }
}
