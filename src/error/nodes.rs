//! Errors of a vault on many nodes (docs/scale-out.md).

use pgrx::PgSqlErrorCode;

#[derive(Debug, thiserror::Error)]
pub enum NodesError {
    #[error("this call needs a vault on one node")]
    NotOnNodes,
    #[error("the vaults of all nodes would be dropped")]
    WouldDestroy,
    #[error("the vaults could not be locked on every node")]
    NotLocked,
    #[error("shards of the vaults may not move while calls go on")]
    MovesBesideCalls,
    #[error("the login vault_ext_owner is for the nodes of a cluster, and calls nothing")]
    NodesLogin,
    #[error("another node may still wrap with this KEK")]
    KekActive(Vec<String>),
}

impl NodesError {
    pub fn sqlstate(&self) -> PgSqlErrorCode {
        match self {
            Self::NotLocked => PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            Self::NodesLogin => PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            _ => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        }
    }

    pub fn detail(&self) -> Option<String> {
        match self {
            Self::KekActive(nodes) => Some(format!("{}.", nodes.join(", "))),
            _ => None,
        }
    }

    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotOnNodes => {
                "vault_ext.distribute() has spread this vault over the nodes of a Citus cluster: docs/scale-out.md says which calls do not work there, and why."
            }
            Self::WouldDestroy => {
                "Make a backup of every node first, and SET vault_ext.allow_drop = on in this session if you mean it."
            }
            Self::NotLocked => {
                "SELECT * FROM vault_ext.nodes() shows whether every node answers; on one of them, a transaction that has written vaults may still be open."
            }
            Self::MovesBesideCalls => {
                "On the coordinator, CALL vault_ext.rebalance() moves them one by one, and calls wait for each move. To empty a node, set its property shouldhaveshards to false before (citus_set_node_property())."
            }
            Self::NodesLogin => "Log in as a role of the application, or as an administrator.",
            Self::KekActive(_) => {
                "Make another KEK the first line of the keyring of every node, and call vault_reload_kek() there; SELECT * FROM vault_ext.nodes() shows their keyrings."
            }
        }
    }
}
