//! What goes wrong, by the names that the report prints; and known defects, planted to see that the rules catch them.

/// A fault. The letters are those of its part: A for Azure, K for Kubernetes, O for the controller, N for the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    A01ThrottledWithTime,
    A02ThrottledWithoutTime,
    A03ThrottledWrites,
    A04AnotherOperation,
    A05OperationFails,
    A05OperationSuperseded,
    A06Ignored,
    A07ErrorBeforeEffect,
    A07ErrorAfterEffect,
    A08ConnectionCut,
    A09OperationTakesTenMinutes,
    A10PartialSuccess,
    A11Forbidden,
    A11Locked,
    A12Unauthenticated,
    A13Gone,
    A14StaleRead,
    A15UnknownShape,
    A16ForeignWriterDrops,
    A16ForeignWriterReplaces,
    A17ForeignWriterAdds,
    A18SubnetFull,
    A18SubnetFragmented,
    A19SubnetFullUntrue,
    A20SubnetGrows,
    A21NicIsFull,
    A22TagsAndGroups,
    A23Deallocated,
    A24NicLagsModel,
    A25Outage,
    A26ClocksDiffer,
    A27NoConnection,
    A28OthersUseUp,
    A30BlocksRefused,
    A31BlocksIgnored,
    K01ApiServerDown,
    K02WatchStartsAnew,
    K03StaleCache,
    K04Conflict,
    K05KindsRefused,
    K06ConfigInvalid,
    K07OtherConfigCounts,
    K07UnitChanges,
    K08ConfigDeleted,
    K09TokenRotated,
    K10ObjectDeletedByHand,
    K11NodeMadeAnew,
    K12AllJoin,
    K13Cordoned,
    K14JobsFinish,
    K15Restored,
    K16CredentialsChanged,
    K17RequestLate,
    O01Killed,
    O01KilledBeforeSending,
    O01KilledInFlight,
    O01KilledOnceAccepted,
    O01KilledBeforeReadBack,
    O01KilledBeforePublishing,
    O01KilledBeforeClosing,
    O02LeaderFrozen,
    O02FrozenMidway,
    O02LeaderCutOff,
    O03ClockJumps,
    O04LateWrite,
    O05AllKilled,
    O06Downgraded,
    O07PassPanics,
    O08Leaves,
    N01AgentKilledMidway,
    N02AgentDown,
    N03Rebooted,
    N03RebootedInTheDark,
    N04Reimaged,
    N05MetadataSilent,
    N06MetadataStale,
    N07Silent,
    N08AnswerLost,
}

impl Fault {
    pub const ALL: [Self; 78] = [
        Self::A01ThrottledWithTime,
        Self::A02ThrottledWithoutTime,
        Self::A03ThrottledWrites,
        Self::A04AnotherOperation,
        Self::A05OperationFails,
        Self::A05OperationSuperseded,
        Self::A06Ignored,
        Self::A07ErrorBeforeEffect,
        Self::A07ErrorAfterEffect,
        Self::A08ConnectionCut,
        Self::A09OperationTakesTenMinutes,
        Self::A10PartialSuccess,
        Self::A11Forbidden,
        Self::A11Locked,
        Self::A12Unauthenticated,
        Self::A13Gone,
        Self::A14StaleRead,
        Self::A15UnknownShape,
        Self::A16ForeignWriterDrops,
        Self::A16ForeignWriterReplaces,
        Self::A17ForeignWriterAdds,
        Self::A18SubnetFull,
        Self::A18SubnetFragmented,
        Self::A19SubnetFullUntrue,
        Self::A20SubnetGrows,
        Self::A21NicIsFull,
        Self::A22TagsAndGroups,
        Self::A23Deallocated,
        Self::A24NicLagsModel,
        Self::A25Outage,
        Self::A26ClocksDiffer,
        Self::A27NoConnection,
        Self::A28OthersUseUp,
        Self::A30BlocksRefused,
        Self::A31BlocksIgnored,
        Self::K01ApiServerDown,
        Self::K02WatchStartsAnew,
        Self::K03StaleCache,
        Self::K04Conflict,
        Self::K05KindsRefused,
        Self::K06ConfigInvalid,
        Self::K07OtherConfigCounts,
        Self::K07UnitChanges,
        Self::K08ConfigDeleted,
        Self::K09TokenRotated,
        Self::K10ObjectDeletedByHand,
        Self::K11NodeMadeAnew,
        Self::K12AllJoin,
        Self::K13Cordoned,
        Self::K14JobsFinish,
        Self::K15Restored,
        Self::K16CredentialsChanged,
        Self::K17RequestLate,
        Self::O01Killed,
        Self::O01KilledBeforeSending,
        Self::O01KilledInFlight,
        Self::O01KilledOnceAccepted,
        Self::O01KilledBeforeReadBack,
        Self::O01KilledBeforePublishing,
        Self::O01KilledBeforeClosing,
        Self::O02LeaderFrozen,
        Self::O02FrozenMidway,
        Self::O02LeaderCutOff,
        Self::O03ClockJumps,
        Self::O04LateWrite,
        Self::O05AllKilled,
        Self::O06Downgraded,
        Self::O07PassPanics,
        Self::O08Leaves,
        Self::N01AgentKilledMidway,
        Self::N02AgentDown,
        Self::N03Rebooted,
        Self::N03RebootedInTheDark,
        Self::N04Reimaged,
        Self::N05MetadataSilent,
        Self::N06MetadataStale,
        Self::N07Silent,
        Self::N08AnswerLost,
    ];

    pub fn number(self) -> u64 {
        Self::ALL.iter().position(|one| *one == self).and_then(|at| u64::try_from(at).ok()).unwrap_or(u64::MAX)
    }
}

/// A rule of which it is counted how often it was looked at: it speaks of what happens seldom, so that one might think that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Each address has one record.
    I1,
    /// Removals rest on the word of this boot.
    I7,
    /// What is lost is remembered while a pod has it.
    Re7,
    /// What is stored is not written again.
    Sc1,
    /// What is asked back leaves what pods need.
    Up5,
}

impl Rule {
    pub const ALL: [Self; 5] = [Self::I1, Self::I7, Self::Re7, Self::Sc1, Self::Up5];
}

/// A known defect, planted where the parts meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// Resource Manager does not look at `If-Match` (I12).
    EtagIgnored,
    /// The controller sends before its intent is stored (I4).
    IntentNotStored,
    /// The controller asks neither the clock nor its lease before it sends (I6).
    SendsAnyway,
    /// The API server does not look at the version that a write was decided on (RE1, K3).
    UnconditionalWrites,
    /// A removal is not compared with the address (RE2).
    SlotAlone,
    /// The agent adopts whatever the object says (RE3).
    AdoptsOlder,
    /// The finalizer goes at once (RE4).
    NoFinalizer,
    /// After a boot the durable pool is offered as it is (RE5).
    OfferedAfterBoot,
    /// A new address is offered before it carries traffic (RE6).
    OfferedAtOnce,
    /// What was set aside comes back at once (RE8).
    NoProbation,
    /// Addresses are published as soon as the request was accepted.
    PublishedAtOnce,
    /// The agent sets aside what a pod holds.
    SetsAsideInUse,
    /// A replaced disk has the same id (ST9).
    StoreIdKept,
    /// ADD leases what rests (ST13).
    NoCooling,
    /// Resource Manager takes what is not ours away with ours (I3).
    ForeignDropped,
    /// The agent acknowledges what it does not set aside (ST6).
    AcknowledgedAtOnce,
    /// The agent acknowledges a block of which it set something aside (ST6).
    AcknowledgedInPart,
    /// What is to be read from the API server's store is answered by a cache (RE1).
    ReadsItsCache,
    /// Every removal ends in vain.
    RemovalsFail,
    /// The agent says that metadata shows all that is listed (A16).
    NothingMissed,
    /// The controller serves no node without a valid config (K6, K8).
    ConfigOnly,
    /// Each node asks a full subnet by itself (A18).
    AsksFullSubnets,
    /// The agent does not say which lost addresses pods still hold (RE7).
    LostInUseUntold,
    /// The controller writes again what is stored (SC1).
    WritesAgain,
}

impl Mutation {
    pub const ALL: [Self; 24] = [
        Self::EtagIgnored,
        Self::IntentNotStored,
        Self::SendsAnyway,
        Self::UnconditionalWrites,
        Self::SlotAlone,
        Self::AdoptsOlder,
        Self::NoFinalizer,
        Self::OfferedAfterBoot,
        Self::OfferedAtOnce,
        Self::NoProbation,
        Self::PublishedAtOnce,
        Self::SetsAsideInUse,
        Self::StoreIdKept,
        Self::NoCooling,
        Self::ForeignDropped,
        Self::AcknowledgedAtOnce,
        Self::AcknowledgedInPart,
        Self::ReadsItsCache,
        Self::RemovalsFail,
        Self::NothingMissed,
        Self::ConfigOnly,
        Self::AsksFullSubnets,
        Self::LostInUseUntold,
        Self::WritesAgain,
    ];
}
