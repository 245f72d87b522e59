"""JupyterHub on one machine, for Unix users, where the hub itself is not root: a user `jupyterhub` and sudo.

Once, as root (/opt/hub is the environment of JupyterHub and nbcontainer; only root may be able to write to it):

    useradd --system jupyterhub && groupadd students && usermod -aG students alice
    echo 'jupyterhub ALL=(root) NOPASSWD: /opt/hub/bin/python -I -m nbcontainer.jupyter.steward --group students --place /jupyterhub *' \\
        >/etc/sudoers.d/jupyterhub

With this the hub can start servers of the members of `students`, give each a cgroup with limits, and end it. It can do
nothing else as root. (PAM can check passwords of others only for members of the group shadow, or take another authenticator.)
"""

c = get_config()  # type: ignore[name-defined] # noqa: F821 (JupyterHub gives it)

c.LocalAuthenticator.allowed_groups = {"students"}
c.JupyterHub.spawner_class = "nbcontainer.jupyter.hub.SudoSpawner"
c.SudoSpawner.group = "students"
c.SudoSpawner.pids_limit = 512
c.Spawner.mem_limit = "2G"
c.Spawner.cpu_limit = 1.0
