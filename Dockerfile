# skipstep on a CPU: docker build -t skipstep . && docker run -v "$PWD/multirun:/skipstep/multirun" skipstep cache=uniform
# docs/how-to/install.md says how it was tried: its steps, one by one, in a fresh Debian (tools/docker_steps.py)
FROM debian:bookworm-slim

# what pip cannot bring (tools/doctor.py names it): a compiler for the kernels and for evdev, and libraries of films
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 python3-dev python3-venv gcc libc6-dev \
        linux-libc-dev libegl1 libegl-mesa0 libgl1-mesa-dri libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /skipstep
RUN python3 -m venv .venv
ENV PATH=/skipstep/.venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

# PyTorch's own index has builds without CUDA, which are some GB smaller
ARG TORCH_FROM="--index-url https://download.pytorch.org/whl/cpu"
RUN pip install --no-cache-dir torch==2.13.0 $TORCH_FROM

COPY . .
RUN pip install --no-cache-dir --editable '.[sim,data,serve]' --constraint constraints.txt
RUN python tools/doctor.py

ENTRYPOINT ["python", "run.py"]
CMD ["--help"]
