//! Commands of ours in the documents: each is one, and has the options that it is given.

use std::collections::BTreeSet;

use azure_vnet_e2e::commands;
use azure_vnet_operator::{cli, tool};
use clap::{Command, CommandFactory as _};

use super::{blocks, code, documents};

/// Options that documents name by themselves and that other programs have, or scripts and containers of ours.
const OF_OTHERS: [&str; 11] = [
    "--attach-acr",
    "--cluster-cidr",
    "--enable-oidc-issuer",
    "--failovers",
    "--force-conflicts",
    "--from",
    "--network-plugin",
    "--nrg-lockdown-restriction-level",
    "--pod-cidr",
    "--timeout",
    "--workspace",
];

/// How each of our programs is called.
fn programs() -> [(&'static str, Command); 3] {
    let programs =
        [("kubectl azure-vnet", tool::Cli::command()), ("azure-vnet-operator", cli::Cli::command()), ("cargo xtask", commands::command())];
    programs.map(|(called, mut command)| {
        // Options of all commands come to each of them only so.
        command.build();
        (called, command)
    })
}

#[test]
fn every_command_and_every_option_of_it_exists() {
    let (programs, mut wrong, mut seen) = (programs(), vec![], 0);
    for (path, text) in documents() {
        for line in lines(&text) {
            for (called, command) in &programs {
                for rest in line.split(called).skip(1).filter_map(|rest| rest.strip_prefix(' ')) {
                    seen += 1;
                    wrong.extend(fault(command, rest).map(|fault| format!("{}: {called} {rest}: {fault}", path.display())));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(seen > 60, "only {seen} commands were found");
}

/// A line of a block that goes on after a backslash is one, and so is what stands between backticks; prose that names a command is read as well.
fn lines(text: &str) -> Vec<String> {
    let joined: Vec<String> =
        blocks(text).iter().flat_map(|(_, block)| block.replace("\\\n", " ").lines().map(str::to_owned).collect::<Vec<_>>()).collect();
    joined.into_iter().chain(code(text)).collect()
}

/// What is wrong with the words after a program's name.
fn fault(program: &Command, rest: &str) -> Option<String> {
    let end = rest.find(['|', ';', '&', '#', '>', '`', '\'', '"', '(', ')', ',']).unwrap_or(rest.len());
    let (mut command, mut takes_value, mut words) = (program, false, 0);
    for word in rest.get(..end).unwrap_or_default().split_whitespace() {
        if std::mem::take(&mut takes_value) || word == "\\" {
            continue;
        }
        if let Some(option) = word.strip_prefix("--") {
            let (name, value) = option.split_once('=').map_or((option, None), |(name, value)| (name, Some(value)));
            let found = command.get_arguments().find(|argument| {
                argument.get_long() == Some(name) || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
            });
            let Some(found) = found else { return Some(format!("{} has no option --{name}", command.get_name())) };
            takes_value =
                value.is_none() && found.get_action().takes_values() && found.get_num_args().is_none_or(|number| number.min_values() > 0);
        } else if command.has_subcommands() && word.starts_with(|c: char| c.is_ascii_lowercase()) {
            match command.find_subcommand(word) {
                Some(inner) => command = inner,
                None => return Some(format!("{} has no command {word}", command.get_name())),
            }
        } else {
            words += 1;
        }
    }
    let most = command
        .get_positionals()
        .map(|argument| argument.get_num_args().map_or(1, |number| number.max_values()))
        .fold(0, usize::saturating_add);
    (!command.has_subcommands() && words > most).then(|| format!("{} takes {most} words", command.get_name()))
}

#[test]
fn every_option_that_is_named_by_itself_is_one_of_ours_or_known() {
    let mut known: BTreeSet<String> = OF_OTHERS.into_iter().map(str::to_owned).collect();
    for (_, command) in programs() {
        collect(&command, &mut known);
    }
    let mut wrong = vec![];
    for (path, text) in documents() {
        for name in code(&text).iter().filter(|text| text.starts_with("--")) {
            let option: String = name.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
            if !known.contains(&option) {
                wrong.push(format!("{}: {name}", path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

fn collect(command: &Command, into: &mut BTreeSet<String>) {
    into.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(|name| format!("--{name}")));
    command.get_subcommands().for_each(|inner| collect(inner, into));
}

#[test]
fn a_wrong_command_option_or_word_too_many_is_found() {
    let programs = programs();
    let fault = |called: &str, rest: &str| programs.iter().find(|(name, _)| *name == called).and_then(|(_, command)| fault(command, rest));
    assert_eq!(fault("kubectl azure-vnet", "why POD --namespace x   # one pod"), None);
    assert_eq!(fault("cargo xtask", "sim --seed N` tells"), None);
    assert!(fault("kubectl azure-vnet", "wy POD").is_some());
    assert!(fault("kubectl azure-vnet", "why POD --nmespace x").is_some());
    assert!(fault("cargo xtask", "dmo").is_some());
    assert!(fault("cargo xtask", "sim --sed 7").is_some());
    assert!(fault("azure-vnet-operator", "node sttus").is_some());
}
