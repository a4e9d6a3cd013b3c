//! `hubbub check`: whether the engine that the configuration names is fit, condition by condition.

use std::{fmt::Write as _, path::PathBuf};

use clap::Args;
use hubbub::{
    config::{self, Config, EngineFlag, EngineKind, Flags},
    engine::jetstream::check::{Verdict, check},
    server::check_options,
};

use super::{CliError, process::print, terminal::Style};

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The configuration file [default: ./hubbub.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The servers of NATS, as nats://a,b,c [default: those of the configuration]
    #[arg(long, value_name = "sqlite|nats://A,B,C")]
    engine: Option<EngineFlag>,
    /// One server of NATS is enough: for trying it out [default: false]
    #[arg(long)]
    engine_single: bool,
}

pub(crate) async fn run(args: CheckArgs) -> Result<(), CliError> {
    let CheckArgs { config, engine, engine_single } = args;
    let flags = Flags { config, engine, engine_single, ..Flags::default() };
    let config = Config::load(&flags, config::environment())?.config;
    if config.engine == EngineKind::Sqlite {
        return print("ok      sqlite: one node, which needs no other server\n");
    }
    let conditions = check(&check_options(&config)).await?;
    let style = Style::of_stdout();
    let mut page = String::new();
    let mut wrong = 0;
    for condition in &conditions {
        let about = &condition.about;
        // Writing to a string cannot fail.
        let _ = match (&condition.verdict, condition.problem()) {
            (Verdict::Ok(seen), _) => writeln!(page, "{}      {about}: {seen}", style.good("ok")),
            (_, None) => Ok(()),
            (_, Some(problem)) => {
                wrong += 1;
                let (reason, fix) = (&problem.reason, &problem.fix);
                writeln!(page, "{}  {about}: {reason}\n        {fix}", style.bad("FAILED"))
            }
        };
    }
    print(&page)?;
    if wrong == 0 { Ok(()) } else { Err(CliError::Unfit(wrong)) }
}
