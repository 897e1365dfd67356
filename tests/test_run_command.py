"""What a run says of its command: all that matters, and nothing of one machine."""

from lightning_nas.jobs.record import _command


def test_folders_of_one_machine_are_left_out():
    given = ["data.root=/a/b/coco", "data.extra_roots=[/a/x/more,./y/z]", "network.weights=~/w/m.pth", "latency=0.5x"]
    places = ["hydra.run.dir=/x", "shared_dir=/t/s"]
    wanted = "data.root=coco data.extra_roots=[more,z] network.weights=m.pth latency=0.5x"
    assert _command(["prog", "--config-name", "detection", *given, *places]) == (
        f"lightning-nas --config-name detection {wanted}"
    )
