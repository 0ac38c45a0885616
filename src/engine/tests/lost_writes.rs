//! A disk that loses what it was given, and says so once.

use super::*;
use crate::os::sim::{Fault, Operation};

/// E8, W3: after a failed sync every later write fails until the database is opened again, and no
/// acknowledged commit is lost.
#[test]
fn failed_sync_poisons_until_the_next_open() {
    let simulated = Host::simulated(4);
    let engine = open(&simulated.host).unwrap();
    let put = |engine: &Engine, key: &[u8]| {
        let mut write = engine.begin_write()?;
        write.put("t", key, b"v")?;
        write.commit()
    };
    put(&engine, b"good").unwrap();
    simulated
        .disk
        .set_faults(Faults::none().with(Fault::errno(Operation::SyncData, EIO)));
    assert!(matches!(
        put(&engine, b"bad"),
        Err(EngineError::Poisoned { .. })
    ));
    simulated.disk.set_faults(Faults::none());
    assert!(matches!(
        put(&engine, b"later"),
        Err(EngineError::Poisoned { .. })
    ));
    assert!(
        engine.begin_read().get("t", b"bad").unwrap().is_none(),
        "nobody saw it"
    );
    drop(engine);
    let engine = open(&simulated.process_crash().host).unwrap();
    assert!(engine.begin_read().contains("t", b"good").unwrap());
    assert!(!engine.begin_read().contains("t", b"later").unwrap());
}

/// E8, O3: a live page that was lost when the disk was to begin with it is lost silently for the sync that
/// follows. So the checkpoint fails, nothing goes on, and the log that has the page stays.
#[test]
fn failed_start_of_a_writeback_poisons_and_keeps_the_log() {
    for seed in 0..20 {
        let simulated = Host::simulated(seed);
        let engine = open(&simulated.host).unwrap();
        let mut write = engine.begin_write().unwrap();
        for key in 0..200u32 {
            write.put("t", &key.to_be_bytes(), &[7; 1000]).unwrap();
        }
        write.commit().unwrap();
        let fault = Fault::errno(Operation::StartWriteBack, EIO).on("data.pages");
        simulated.disk.set_faults(Faults::none().with(fault));
        let failed = engine.checkpoint();
        assert!(failed.is_err(), "{failed:?}");
        assert!(matches!(
            engine.checkpoint(),
            Err(EngineError::Poisoned { .. })
        ));
        drop(engine);
        let after = simulated.crash(seed);
        let engine = open(&after.host).unwrap();
        let read = engine.begin_read();
        for key in 0..200u32 {
            let value = read.get("t", &key.to_be_bytes()).unwrap();
            assert_eq!(value.as_deref(), Some(&[7; 1000][..]), "seed {seed}");
        }
    }
}
