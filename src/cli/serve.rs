//! `hubbub serve`: the flags of the server, which win over its environment and its file.

use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::CliError;

/// The flags. What is absent is left to the environment, the file and the defaults; serialised,
/// it is absent too, so that this is a layer of the configuration.
#[derive(Clone, Debug, Default, Args, Serialize)]
pub(crate) struct ServeArgs {
    /// Address of the public listener: WebSocket, HTTP API and page [default: 127.0.0.1:7878]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address of the internal listener: metrics and health [default: 127.0.0.1:7879]
    #[arg(long, value_name = "ADDR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) internal_listen: Option<SocketAddr>,
    /// Folder of everything that is stored; made at first start [default: ./hubbub-data]
    #[arg(long, value_name = "DIR")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Cores for the hub's threads: auto, off, or a list such as 0,2 [default: auto]
    #[arg(long, value_name = "auto|off|LIST")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pin_cores: Option<String>,
    /// Configuration file [default: hubbub.toml, if there is one]
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub(crate) config: Option<PathBuf>,
}

/// Runs the server until it is told to stop.
pub(crate) fn serve(_args: &ServeArgs) -> Result<(), CliError> {
    Err(CliError::NotBuilt)
}

/// Prints the configuration.
pub(crate) fn show_config(_args: &ServeArgs) -> Result<(), CliError> {
    Err(CliError::NotBuilt)
}

#[cfg(test)]
mod tests {
    use super::ServeArgs;

    #[test]
    fn an_absent_flag_is_no_layer_of_the_configuration() {
        assert_eq!(serde_json::to_string(&ServeArgs::default()).unwrap(), "{}");
        let args = ServeArgs {
            listen: Some(([127, 0, 0, 1], 0).into()),
            config: Some("hubbub.toml".into()),
            ..ServeArgs::default()
        };
        assert_eq!(serde_json::to_string(&args).unwrap(), r#"{"listen":"127.0.0.1:0"}"#);
    }
}
